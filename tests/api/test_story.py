"""A client's day with the API, on both databases."""

from tests.api import rows
from tests.api.client import Api


async def test_a_tenant_registers_publishes_looks_redelivers_and_leaves(either_api: Api) -> None:
    admin = either_api
    key = (await admin.post("/v1/keys", {"tenant": "acme"})).json["key"]
    acme = admin.under(key)

    made = await acme.post("/v1/endpoints", {"url": "https://example.com/hook?token=t", "event_types": ["job.*"]})
    assert made.status == 201
    endpoint = f"/v1/endpoints/{made.json['id']}"
    assert (await acme.patch(endpoint, {"retry_schedule": [1, 2.5], "metadata": {"é": "\u2028"}})).status == 200
    assert (await acme.get(endpoint)).json["retry_schedule"] == [1.0, 2.5]

    sent = await rows.sent(acme, tenant="acme", job_id="job_1", data={"n": 12345678901234567890123})
    event = (await acme.get(f"/v1/events/{sent.event_id}")).json
    assert event["data"] == {"n": 12345678901234567890123}
    assert [delivery["id"] for delivery in event["deliveries"]] == [sent.delivery_id]
    batch = await acme.post("/v1/events/batch", {"events": [{"type": "job.failed", "data": n} for n in range(3)]})
    assert [one["id"] for one in (await acme.get("/v1/events?type=job.failed")).json["data"]] == batch.json["ids"][::-1]

    figures = (await acme.get("/v1/stats?per_endpoint=true")).json
    assert figures["dead_letters"]["count"] == 1
    run = await acme.post("/v1/dead-letters/redeliver", {"reason": "exhausted"})
    assert (run.status, run.json["matched"]) == (202, 1)
    assert (await acme.post(f"{run.headers['Location']}/cancel")).json["state"] == "cancelled"
    assert (await acme.post(f"/v1/deliveries/{sent.delivery_id}/redeliver")).json["state"] == "pending"
    assert (await acme.post(f"/v1/deliveries/{sent.delivery_id}/cancel")).json["reason"] == "operator"

    callback = await acme.post("/v1/jobs/job_2/callbacks", {"url": "https://example.com/jobs/2"})
    assert callback.status == 201
    for verb in ("pause", "resume", "disable", "enable"):
        assert (await acme.post(f"{endpoint}/{verb}")).status == 200
    assert (await acme.delete(endpoint)).status == 204
    assert (await admin.get("/readyz")).json["ready"] is True


async def test_bad_values_are_no_fault_of_the_database(either_api: Api) -> None:
    api = either_api
    huge = 10**400
    for body in (
        {"rate_limit": huge},
        {"max_in_flight": huge},
        {"retry_schedule": [huge]},
        {"metadata": {"a\u0000": "b"}},
    ):
        assert (await api.post("/v1/endpoints", {"url": "https://example.com/hook", **body})).status == 422, body
    for path in (
        "/v1/events/%00",
        "/v1/events/x",
        "/v1/endpoints/ep_0000000000000",
        "/v1/deliveries/dlv_zzzzzzzzzzzzz",
        "/v1/dead-letters/dl_fzzzzzzzzzzzz",
        "/v1/redeliveries/rdl_7zzzzzzzzzzzz",
    ):
        assert (await api.get(path)).status == 404, path
    for since in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert (await api.get(f"/v1/events?since={since}")).status == 200
    nul = await api.send("POST", "/v1/events", raw=b'{"type": "a.b", "data": "\\u0000"}')
    assert nul.status == 202
    assert b'"\\u0000"' in (await api.get(nul.headers["Location"])).raw


async def test_no_timestamp_is_a_fault_of_the_database(either_api: Api) -> None:
    for timestamp in (
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:01Z",
        "9999-12-31T23:59:59Z",
        # What a driver may take for minus and plus infinity.
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ):
        published = await either_api.post("/v1/events", {"type": "a.b", "data": 1, "timestamp": timestamp})
        if published.status == 422:
            assert published.pointers == ["#/timestamp"]
            continue
        assert published.status == 202, timestamp
        assert (await either_api.get(published.headers["Location"])).json["timestamp"] == timestamp
