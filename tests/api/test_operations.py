"""Health that tells the truth, figures, and the service's own addresses."""

from prometheus_client.parser import text_string_to_metric_families

from tests.api import rows
from tests.api.client import Api


async def test_the_process_says_that_it_lives(api: Api) -> None:
    answered = await api.under(None).get("/healthz")
    assert (answered.status, answered.json) == (200, {"status": "ok"})


async def test_it_is_ready_while_the_schema_is_current(api: Api) -> None:
    answered = await api.under(None).get("/readyz")
    assert (answered.status, answered.json["ready"]) == (200, True)


async def test_it_is_not_ready_without_the_tables(api: Api) -> None:
    tables = api.deployment.database.tables
    async with api.deployment.database.begin() as connection:
        await connection.run_sync(tables.metadata.drop_all)
        await connection.exec_driver_sql(f"DROP TABLE {tables.version_table}")
    answered = await api.under(None).get("/readyz")
    assert (answered.status, answered.json["ready"]) == (503, False)
    assert "dispatcher migrate" in str(answered.json["checks"])
    assert (await api.get("/healthz")).status == 200


async def test_figures_count_what_waits_and_what_died(api: Api) -> None:
    sent = await rows.sent(api)
    figures = (await api.get("/v1/stats")).json
    assert (figures["dead_letters"]["count"], figures["endpoints"]) == (1, None)
    per_endpoint = (await api.get("/v1/stats?per_endpoint=true")).json["endpoints"]
    assert [(one["endpoint_id"], one["dead_letters"]["count"]) for one in per_endpoint] == [(sent.endpoint_id, 1)]


async def test_receivers_can_ask_where_deliveries_come_from(api: Api) -> None:
    assert (await api.get("/v1/egress")).json == {"addresses": ["192.0.2.7", "2001:db8::7"]}


async def test_metrics_are_readable_by_prometheus(api: Api) -> None:
    answered = await api.get("/metrics")
    assert answered.status == 200
    names = {family.name for family in text_string_to_metric_families(answered.raw.decode())}
    assert {"dispatcher_in_flight", "dispatcher_attempt_duration_seconds"} <= names
