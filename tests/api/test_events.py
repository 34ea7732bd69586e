"""Publishing: once committed it is answered, and what is wrong names its place."""

import pytest

from tests.api import rows
from tests.api.client import Api


async def test_a_published_event_can_be_looked_at(api: Api) -> None:
    published = await api.post("/v1/events", {"type": "job.completed", "job_id": "job_1", "data": {"n": 1}})
    assert published.status == 202
    assert set(published.json) == {"id", "type", "job_id", "created_at", "warnings"}
    shown = await api.get(published.headers["Location"])
    assert (shown.json["type"], shown.json["job_id"], shown.json["data"]) == ("job.completed", "job_1", {"n": 1})
    assert shown.json["deliveries"] == []
    listed = (await api.get("/v1/events?job_id=job_1&type=job.completed")).json["data"]
    assert [event["id"] for event in listed] == [published.json["id"]]


async def test_data_comes_back_as_it_was_written(api: Api) -> None:
    written = b'{"n":1.10,"big":12345678901234567890123,"e":1E400,"twice":1,"twice":2,"u":"\\u00e9\\u2028"}'
    published = await api.send("POST", "/v1/events", raw=b'{"type":"a.b", "data": ' + written + b"}")
    assert published.status == 202
    assert b'"data":' + written in (await api.get(f"/v1/events/{published.json['id']}")).raw


@pytest.mark.parametrize("data", [b"null", b"0", b'"text"', b"[]", b"{}", b"false", b"-0.0", b'"\\u0000"'])
async def test_any_json_is_data(api: Api, data: bytes) -> None:
    published = await api.send("POST", "/v1/events", raw=b'{"type":"a.b","data":' + data + b"}")
    assert published.status == 202
    assert b'"data":' + data in (await api.get(f"/v1/events/{published.json['id']}")).raw


async def test_a_kind_is_shown_as_what_it_comes_to(api: Api) -> None:
    batch = [
        {"type": "job.progress", "job_id": "job_1", "data": 1},
        {"type": "job.progress", "job_id": "job_1", "data": 1, "kind": "state"},
        {"type": "a.b", "job_id": "job_1", "data": 1, "kind": "terminal"},
        {"type": "job.completed", "data": 1},
    ]
    ids = (await api.post("/v1/events/batch", {"events": batch})).json["ids"]
    shown = [(await api.get(f"/v1/events/{event_id}")).json["kind"] for event_id in ids]
    assert shown == ["progress", "state", "terminal", "state"]


async def test_a_kind_is_part_of_the_content_and_has_no_effect_without_a_job(api: Api) -> None:
    event = {"type": "a.b", "data": 1, "kind": "progress", "idempotency_key": "k"}
    published = await api.post("/v1/events", event)
    assert len(published.json["warnings"]) == 1
    assert (await api.post("/v1/events", event)).json["id"] == published.json["id"]
    for other in ({"kind": "state"}, {"kind": None}):
        assert (await api.post("/v1/events", event | other)).status == 409
    assert (await api.post("/v1/events", {"type": "a.b", "data": 1, "kind": "state"})).json["warnings"] == []


async def test_a_payload_above_20_kb_is_taken_with_a_warning(api: Api) -> None:
    published = await api.post("/v1/events", {"type": "a.b", "data": "x" * 30_000})
    assert published.status == 202
    assert len(published.json["warnings"]) == 1


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"type": "a b"}, "#/type"),
        ({"type": ""}, "#/type"),
        ({"type": "webhook.test"}, "#/type"),
        ({"type": "x" * 256}, "#/type"),
        ({"type": 5}, "#/type"),
        ({"type": None}, "#/type"),
        ({"id": "a.b"}, "#/id"),
        ({"id": "x" * 129}, "#/id"),
        ({"id": ""}, "#/id"),
        ({"job_id": ""}, "#/job_id"),
        ({"job_id": "a\u0000b"}, "#/job_id"),
        ({"job_id": "x" * 256}, "#/job_id"),
        ({"job_id": 1}, "#/job_id"),
        ({"timestamp": "yesterday"}, "#/timestamp"),
        ({"timestamp": "2026-01-01T00:00:00"}, "#/timestamp"),
        ({"timestamp": 1767225600}, "#/timestamp"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "#/timestamp"),
        ({"traceparent": "x\r\ny"}, "#/traceparent"),
        ({"idempotency_key": ""}, "#/idempotency_key"),
        ({"idempotency_key": "x" * 256}, "#/idempotency_key"),
        ({"tenant": "x" * 129}, "#/tenant"),
        ({"kind": "over"}, "#/kind"),
        ({"kind": 1}, "#/kind"),
        ({"sequence": 1}, "#/sequence"),
    ],
    ids=str,
)
async def test_a_bad_field_is_a_422_that_names_it(api: Api, fields: dict[str, object], pointer: str) -> None:
    good = {"type": "a.b", "data": 1}
    answered = await api.post("/v1/events", {**good, **fields})
    assert (answered.status, answered.pointers) == (422, [pointer])
    answered = await api.post("/v1/events/batch", {"events": [good, {**good, **fields}]})
    assert (answered.status, answered.pointers) == (422, [f"#/events/1{pointer[1:]}"])
    assert (await api.get("/v1/events")).json["data"] == []


async def test_missing_fields_are_named_together(api: Api) -> None:
    answered = await api.post("/v1/events", {"job_id": "job_1"})
    assert answered.status == 422
    assert sorted(answered.pointers) == ["#/data", "#/type"]


async def test_the_idempotency_key_may_be_a_header_or_a_field(api: Api) -> None:
    body = {"type": "a.b", "data": {"n": 1, "m": 2}}
    first = await api.post("/v1/events", body, Idempotency_Key="once")
    again = await api.post("/v1/events", {"type": "a.b", "data": {"m": 2, "n": 1.0}, "idempotency_key": "once"})
    assert first.status == again.status == 202
    assert again.json == first.json
    assert len((await api.get("/v1/events")).json["data"]) == 1
    both = await api.post("/v1/events", {**body, "idempotency_key": "twice"}, Idempotency_Key="once")
    assert (both.status, both.pointers) == (422, ["#/idempotency_key"])
    beside_id = await api.post("/v1/events", {**body, "id": "mine"}, Idempotency_Key="once")
    assert (beside_id.status, beside_id.pointers) == (422, ["#/Idempotency-Key"])


@pytest.mark.parametrize("identity", [{"idempotency_key": "once"}, {"id": "my-event"}])
async def test_the_same_identity_with_other_content_is_a_409(api: Api, identity: dict[str, str]) -> None:
    assert (await api.post("/v1/events", {"type": "a.b", "data": 1, **identity})).status == 202
    for other in ({"type": "a.c", "data": 1}, {"type": "a.b", "data": 2}, {"type": "a.b", "data": 1, "job_id": "j"}):
        answered = await api.post("/v1/events", {**other, **identity})
        assert (answered.status, answered.problem) == (409, "idempotency-conflict")


async def test_a_batch_is_stored_in_order(api: Api) -> None:
    answered = await api.post("/v1/events/batch", {"events": [{"type": "a.b", "data": n} for n in range(1000)]})
    assert answered.status == 202
    assert len(set(answered.json["ids"])) == 1000
    newest = (await api.get("/v1/events?limit=3")).json["data"]
    assert [event["id"] for event in newest] == answered.json["ids"][:-4:-1]


@pytest.mark.parametrize("events", [[], [{"type": "a.b", "data": 1}] * 1001, "text", None, {}, 5])
async def test_a_batch_that_is_none_is_a_422_that_names_it(api: Api, events: object) -> None:
    answered = await api.post("/v1/events/batch", {"events": events})
    assert (answered.status, answered.pointers) == (422, ["#/events"])


async def test_an_event_in_a_batch_that_is_no_object_is_named(api: Api) -> None:
    answered = await api.post("/v1/events/batch", {"events": [{"type": "a.b", "data": 1}, 5]})
    assert (answered.status, answered.pointers) == (422, ["#/events/1"])


async def test_a_batch_that_conflicts_stores_nothing(api: Api) -> None:
    await api.post("/v1/events", {"type": "a.b", "data": 1, "id": "mine"})
    batch = {"events": [{"type": "a.b", "data": 1}, {"type": "a.b", "data": 2, "id": "mine"}]}
    answered = await api.post("/v1/events/batch", batch)
    assert answered.status == 409
    assert len((await api.get("/v1/events")).json["data"]) == 1


async def test_events_are_filtered_by_time_and_listed_in_pages(api: Api) -> None:
    made = [await rows.event(api) for _ in range(3)]
    first = (await api.get("/v1/events?limit=2&since=2020-01-01T00:00:00Z")).json
    rest = (await api.get(f"/v1/events?limit=2&since=2020-01-01T00:00:00Z&cursor={first['next_cursor']}")).json
    assert [event["id"] for event in first["data"] + rest["data"]] == made[::-1]
    assert (await api.get("/v1/events?until=2020-01-01T00:00:00Z")).json["data"] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_id", "a\nb"),
        ("tenant", "a\nb"),
        ("idempotency_key", "a\nb"),
        ("id", "a.b"),
        ("timestamp", "9999-12-31T00:00:00Z"),
        ("traceparent", f"00-{'0' * 32}-{'0' * 16}-01"),
    ],
)
async def test_whatever_is_refused_in_a_batch_is_named_with_its_index(api: Api, field: str, value: str) -> None:
    event = {"type": "a.b", "data": 1}
    answered = await api.post("/v1/events/batch", {"events": [event, {**event, field: value}]})
    assert (answered.status, answered.pointers) == (422, [f"#/events/1/{field}"])
