"""Dead letters: found, counted, put back in bulk, discarded."""

import pytest

from tests.api import rows
from tests.api.client import Api


async def test_dead_letters_are_listed_and_filtered(api: Api) -> None:
    sent = await rows.sent(api, job_id="job_1")
    (listed,) = (await api.get("/v1/dead-letters")).json["data"]
    assert (listed["id"], listed["delivery_id"]) == (sent.dead_letter_id, sent.delivery_id)
    assert (await api.get(f"/v1/dead-letters/{sent.dead_letter_id}")).json == listed
    for query in ("reason=exhausted", "type=job.completed", "job_id=job_1", f"endpoint_id={sent.endpoint_id}"):
        assert (await api.get(f"/v1/dead-letters?{query}&redelivered=false")).json["data"] == [listed], query
    for query in ("reason=gone", "type=a.b", "job_id=job_2", "redelivered=true", "until=2020-01-01T00:00:00Z"):
        assert (await api.get(f"/v1/dead-letters?{query}")).json["data"] == [], query


async def test_a_dry_run_only_counts(api: Api) -> None:
    await rows.sent(api)
    counted = await api.post("/v1/dead-letters/redeliver", {"all": True, "dry_run": True})
    assert (counted.status, counted.json) == (202, {"id": None, "matched": 1, "dry_run": True})
    assert "Location" not in counted.headers
    discarded = await api.post("/v1/dead-letters/discard", {"reason": "exhausted", "dry_run": True})
    assert (discarded.status, discarded.json) == (200, {"matched": 1, "dry_run": True})
    assert len((await api.get("/v1/dead-letters")).json["data"]) == 1


async def test_a_run_can_be_looked_at_and_stopped(api: Api) -> None:
    await rows.sent(api)
    started = await api.post("/v1/dead-letters/redeliver", {"all": True, "rate_per_s": 50})
    assert (started.status, started.json["matched"]) == (202, 1)
    shown = (await api.get(started.headers["Location"])).json
    assert (shown["state"], shown["matched"], shown["done"]) == ("running", 1, 0)
    stopped = await api.post(f"{started.headers['Location']}/cancel")
    assert (stopped.status, stopped.json["state"]) == (200, "cancelled")


@pytest.mark.parametrize("path", ["/v1/dead-letters/redeliver", "/v1/dead-letters/discard"])
async def test_everything_is_taken_only_when_it_is_said(api: Api, path: str) -> None:
    await rows.sent(api)
    for body in ({}, {"dry_run": True}, {"all": False}):
        assert (await api.post(path, body)).status == 422, body
    bad: list[dict[str, object]] = [
        {"ids": []},
        {"ids": ["x\u0000"]},
        {"since": "2h"},
        {"rate_per_s": 0},
        {"all": "yes"},
    ]
    for fields in bad:
        assert (await api.post(path, {"reason": "gone", **fields})).status == 422, fields
    assert len((await api.get("/v1/dead-letters?redelivered=false")).json["data"]) == 1


async def test_a_discarded_dead_letter_is_gone(api: Api) -> None:
    sent = await rows.sent(api)
    discarded = await api.post("/v1/dead-letters/discard", {"ids": [sent.dead_letter_id]})
    assert (discarded.status, discarded.json) == (200, {"matched": 1, "dry_run": False})
    assert (await api.get(f"/v1/dead-letters/{sent.dead_letter_id}")).status == 404
