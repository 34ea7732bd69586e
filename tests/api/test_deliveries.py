"""Looking at deliveries, sending one again, stopping one."""

from tests.api import rows
from tests.api.client import Api


async def test_a_delivery_is_shown_with_its_attempts(api: Api) -> None:
    sent = await rows.sent(api)
    (listed,) = (await api.get("/v1/deliveries")).json["data"]
    shown = (await api.get(f"/v1/deliveries/{sent.delivery_id}")).json
    assert {name: value for name, value in shown.items() if name != "attempt_log"} == listed
    assert (shown["state"], shown["reason"], shown["last_status"]) == ("dead", "exhausted", 500)
    (attempt,) = shown["attempt_log"]
    assert (attempt["number"], attempt["status"], attempt["response_excerpt"]) == (1, 500, "no")
    assert attempt["started_at"] == "2026-01-02T03:04:05Z"
    assert attempt["request_headers"]["webhook-signature"] == "***"


async def test_deliveries_are_filtered(api: Api) -> None:
    sent = await rows.sent(api, job_id="job_1")
    await rows.sent(api, state="delivered")
    for query in (f"event_id={sent.event_id}", f"endpoint_id={sent.endpoint_id}", "job_id=job_1", "state=dead"):
        listed = (await api.get(f"/v1/deliveries?{query}")).json["data"]
        assert [delivery["id"] for delivery in listed] == [sent.delivery_id], query


async def test_a_dead_delivery_is_redelivered(api: Api) -> None:
    sent = await rows.sent(api)
    answered = await api.post(f"/v1/deliveries/{sent.delivery_id}/redeliver")
    assert (answered.status, answered.json["state"]) == (202, "pending")
    assert answered.headers["Location"] == f"/v1/deliveries/{sent.delivery_id}"
    (letter,) = (await api.get("/v1/dead-letters")).json["data"]
    assert letter["redelivered_at"] is not None


async def test_a_delivery_that_is_being_sent_is_not_redelivered(api: Api) -> None:
    sent = await rows.sent(api, state="sending")
    answered = await api.post(f"/v1/deliveries/{sent.delivery_id}/redeliver")
    assert (answered.status, answered.problem) == (409, "conflict")


async def test_nothing_is_redelivered_to_a_disabled_endpoint(api: Api) -> None:
    sent = await rows.sent(api)
    await api.post(f"/v1/endpoints/{sent.endpoint_id}/disable")
    assert (await api.post(f"/v1/deliveries/{sent.delivery_id}/redeliver")).status == 409


async def test_only_a_pending_delivery_is_cancelled(api: Api) -> None:
    pending, settled = await rows.sent(api, state="pending"), await rows.sent(api, state="delivered")
    cancelled = await api.post(f"/v1/deliveries/{pending.delivery_id}/cancel")
    assert (cancelled.status, cancelled.json["state"], cancelled.json["reason"]) == (200, "cancelled", "operator")
    assert (await api.post(f"/v1/deliveries/{settled.delivery_id}/cancel")).status == 409
