"""Registering callback URLs and changing what is sent to them."""

import json

import pytest
from aiohttp import web

from dispatcher.states import Profile
from dispatcher.store.deployment import Deployment
from tests.api import rows
from tests.api.client import Api
from tests.api.conftest import running_api
from tests.receiver import Received, Receiver

BASES = ["/v1/endpoints", "/v1/webhooks", "/v1/webhooks/subscriptions"]
URL = "https://user:pass-word@example.com/hook?token=t0ken&b=c"


@pytest.mark.parametrize("base", BASES)
async def test_an_endpoint_is_made_shown_listed_and_deleted_under_each_of_its_names(api: Api, base: str) -> None:
    made = await api.post(base, {"url": "https://example.com/hook"})
    assert made.status == 201
    assert made.json["secret"].startswith("whsec_")
    assert made.headers["Location"] == f"{base}/{made.json['id']}"
    shown = await api.get(made.headers["Location"])
    without_secret = {name: value for name, value in made.json.items() if name != "secret"}
    assert shown.json == without_secret
    assert (await api.get(base)).json["data"] == [without_secret]
    assert (await api.delete(made.headers["Location"])).status == 204
    assert (await api.get(made.headers["Location"])).status == 404
    assert (await api.get(base)).json == {"data": [], "next_cursor": None}


async def test_an_alias_is_the_same_endpoint_under_another_path(api: Api) -> None:
    made = await api.post("/v1/webhooks", {"url": "https://example.com/hook", "events": ["job.completed"]})
    assert (await api.get(f"/v1/endpoints/{made.json['id']}")).json["event_types"] == ["job.completed"]


@pytest.mark.parametrize("base", BASES)
async def test_an_alias_beside_its_field_is_a_422_that_names_it(api: Api, base: str) -> None:
    answered = await api.post(base, {"url": "https://example.com/a", "target_url": "https://example.com/b"})
    assert (answered.status, answered.pointers) == (422, ["#/target_url"])
    answered = await api.post(base, {"url": "https://example.com/a", "event_type": "a.b", "events": ["c.d"]})
    assert answered.status == 422


@pytest.mark.parametrize("profile", Profile)
async def test_an_endpoint_takes_every_profile_and_a2a_s_headers(api: Api, profile: Profile) -> None:
    headers = {"Authorization": "Bearer s3cret", "X-A2A-Notification-Token": "t0ken"}
    for path in ("/v1/endpoints", "/v1/jobs/job_1/callbacks"):
        made = await api.post(path, {"url": "https://example.com/hook", "profile": profile, "headers": headers})
        assert (made.status, made.json["profile"]) == (201, profile)
        assert made.json["headers"] == dict.fromkeys(headers, "***")


async def test_the_url_is_shown_without_its_password_and_query_values(api: Api) -> None:
    made = await api.post("/v1/endpoints", {"url": URL, "headers": {"X-Api-Key": "he4der-value"}})
    assert made.json["url"] == "https://user:***@example.com/hook?token=***&b=***"
    assert made.json["headers"] == {"X-Api-Key": "***"}
    for answered in (made, await api.get("/v1/endpoints"), await api.get(f"/v1/endpoints/{made.json['id']}")):
        for hidden in (b"pass-word", b"t0ken", b"he4der-value"):
            assert hidden not in answered.raw


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/hook",
        "https://",
        "https://exämple.com/hook",
        "https://example.com/hook#part",
        "https://example.com\\hook",
        "https://example.com/ho ok",
        "https://example.com/hook\r\nX: y",
        "https://10.0.0.1/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://a@b@example.com/",
        "https://example.com:22/",
        "https://example.com/" + "x" * 4000,
        "https://example.com/\u0000",
        "javascript:alert(1)",
        5,
        None,
        ["https://example.com"],
    ],
)
async def test_a_bad_url_is_a_422_that_names_it(api: Api, url: object) -> None:
    for path in (*BASES, "/v1/jobs/job_1/callbacks"):
        answered = await api.post(path, {"url": url})
        assert (answered.status, answered.pointers) == (422, ["#/url"]), path
    assert (await api.get("/v1/endpoints")).json["data"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"X-A": "b\r\nHost: evil"}},
        {"headers": {"X-A\r\nB": "c"}},
        {"headers": {"Host": "evil"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"webhook-id": "1"}},
        {"headers": {"X-A": "é"}},
        {"headers": {"X-A": 1}},
        {"headers": "X-A: b"},
        {"event_types": []},
        {"event_types": ["a..b"]},
        {"event_types": "a.b"},
        {"event_types": ["a b"]},
        {"secret": "short"},
        {"secret": "whsec_!!!"},
        {"secret": "x" * 257},
        {"signature_header": "X Y"},
        {"signature_header": "webhook-signature"},
        {"signature_prefix": "a\r\nb"},
        {"profile": "cloudevents-batch"},
        {"kind": "state"},
        {"heartbeat_s": 5},
        {"progress_interval_s": 0},
        {"retry_schedule": [-1]},
        {"retry_schedule": [1] * 51},
        {"retry_schedule": ["5s"]},
        {"order_hold_s": -1},
        {"timeout_s": 0},
        {"timeout_s": 301},
        {"max_in_flight": 0},
        {"max_in_flight": 1.5},
        {"rate_limit": 0},
        {"ordered": 1},
        {"description": "x" * 501},
        {"description": "a\u0000b"},
        {"metadata": {"a": 1}},
        {"metadata": {"a\u0000": "b"}},
        {"metadata": {"a": "b\u0000"}},
        {"tenant": ""},
        {"tenant": "a\u0000b"},
        {"status": "paused"},
        {"id": "ep_0000000000000"},
    ],
    ids=str,
)
async def test_a_bad_field_is_a_422_that_names_it(api: Api, fields: dict[str, object]) -> None:
    answered = await api.post("/v1/endpoints", {"url": "https://example.com/hook", **fields})
    (name,) = fields
    assert answered.status == 422
    assert all(pointer.startswith(f"#/{name}") for pointer in answered.pointers), answered.pointers
    assert (await api.get("/v1/endpoints")).json["data"] == []


async def test_the_same_idempotency_key_answers_the_same_endpoint_and_secret(api: Api) -> None:
    body = {"url": "https://example.com/hook"}
    first = await api.post("/v1/endpoints", body, Idempotency_Key="once")
    again = await api.post("/v1/endpoints", body, Idempotency_Key="once")
    assert (again.status, again.json) == (first.status, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    other = await api.post("/v1/endpoints", {"url": "https://example.com/other"}, Idempotency_Key="once")
    assert other.status == 409
    assert len((await api.get("/v1/endpoints")).json["data"]) == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "é", "a\tb"])
async def test_an_idempotency_key_that_is_none_is_a_422_that_names_the_header(api: Api, key: str) -> None:
    for path in ("/v1/endpoints", "/v1/events"):
        body = {"url": "https://example.com"} if path == "/v1/endpoints" else {"type": "a.b", "data": 1}
        answered = await api.post(path, body, Idempotency_Key=key)
        assert (answered.status, answered.pointers) == (422, ["#/Idempotency-Key"])
        assert answered.json["errors"][0]["in"] == "header"


async def test_only_given_fields_change_and_a_redacted_header_stays(api: Api) -> None:
    identifier = await rows.endpoint(api, headers={"X-A": "one", "X-B": "two"}, description="before")
    changed = await api.patch(
        f"/v1/endpoints/{identifier}",
        {"headers": {"X-A": "***"}, "description": None, "target_url": "https://b.example/"},
    )
    assert changed.status == 200
    assert changed.json["headers"] == {"X-A": "***"}
    assert (changed.json["description"], changed.json["url"]) == (None, "https://b.example/")
    assert changed.json["event_types"] == ["*"]


async def test_a_bad_change_changes_nothing(api: Api) -> None:
    identifier = await rows.endpoint(api)
    before = (await api.get(f"/v1/endpoints/{identifier}")).json
    bad: list[dict[str, object]] = [
        {"url": "nonsense", "description": "x"},
        {"status": "paused"},
        {"event_types": []},
        {"url": None},
    ]
    for body in bad:
        assert (await api.patch(f"/v1/endpoints/{identifier}", body)).status == 422, body
    assert (await api.get(f"/v1/endpoints/{identifier}")).json == before


async def test_an_endpoint_is_paused_resumed_disabled_and_enabled(api: Api) -> None:
    identifier = await rows.endpoint(api)
    for verb, status, reason in (
        ("pause", "paused", None),
        ("resume", "enabled", None),
        ("disable", "disabled", "operator"),
        ("enable", "enabled", None),
    ):
        answered = await api.post(f"/v1/endpoints/{identifier}/{verb}")
        assert answered.status == 200
        assert (answered.json["status"], answered.json["disabled_reason"]) == (status, reason)


async def test_a_rotated_secret_is_shown_once(api: Api) -> None:
    identifier = await rows.endpoint(api)
    rotated = await api.post(
        f"/v1/endpoints/{identifier}/rotate-secret", {"secret": "a-secret-of-mine", "overlap_s": 0}
    )
    assert rotated.json["secret"] == "a-secret-of-mine"
    generated = await api.post(f"/v1/endpoints/{identifier}/rotate-secret")
    assert generated.json["secret"].startswith("whsec_")
    assert "secret" not in (await api.get(f"/v1/endpoints/{identifier}")).json
    unknown = await api.post(f"/v1/endpoints/{identifier}/rotate-secret", {"staged": True})
    assert (unknown.status, unknown.pointers) == (422, ["#/staged"])


async def test_a_test_event_is_sent_and_its_outcome_told(api: Api, receiver: Receiver) -> None:
    receiver.answers("/bad", 503)
    for path, outcome in (("/hook", (True, 200, None)), ("/bad", (False, 503, "http_status"))):
        identifier = await rows.endpoint(api, url=receiver.url(path))
        told = (await api.post(f"/v1/endpoints/{identifier}/test")).json
        assert (told["delivered"], told["status"], told["error"]) == outcome
    assert b'"type":"webhook.test"' in receiver.requests[0].body


async def test_a_test_event_tells_what_was_answered_without_what_is_secret(api: Api, receiver: Receiver) -> None:
    async def repeat(request: Received) -> web.StreamResponse:
        return web.json_response({"why": "who are you?", "query": request.query, **request.headers}, status=401)

    receiver.answers("/hook", repeat)
    identifier = await rows.endpoint(
        api,
        url=receiver.url("/hook?token=t0ken-in-the-url"),
        headers={"X-Key": "he4der-value"},
        signature_header="X-Old",
        signature_prefix="sha256=",
    )
    told = (await api.post(f"/v1/endpoints/{identifier}/test")).json["response_excerpt"]
    (sent,) = receiver.requests
    assert "who are you?" in told
    for secret in ("he4der-value", sent.headers["X-Old"].removeprefix("sha256="), sent.headers["webhook-signature"]):
        assert secret not in told
    assert "t0ken-in-the-url" not in told
    silent = await rows.endpoint(api, url=receiver.url("/silent"))
    assert (await api.post(f"/v1/endpoints/{silent}/test")).json["response_excerpt"] is None


async def test_a_challenge_is_sent_and_its_outcome_told(api: Api, receiver: Receiver) -> None:
    async def repeat(request: Received) -> web.StreamResponse:
        return web.Response(text=json.loads(request.body)["data"]["challenge"])

    receiver.answers("/good", repeat)
    receiver.answers("/bad", 200)
    for path, verified in (("/good", True), ("/bad", False)):
        identifier = await rows.endpoint(api, url=receiver.url(path))
        told = (await api.post(f"/v1/endpoints/{identifier}/verify")).json
        assert (told["verified"], told["status"], told["error"]) == (verified, 200, None)
        assert (told["verified_at"] is not None) is verified
        assert (await api.get(f"/v1/endpoints/{identifier}")).json["verified_at"] == told["verified_at"]


async def test_recovering_starts_a_run_that_can_be_looked_at(api: Api) -> None:
    identifier = await rows.endpoint(api)
    started = await api.post(f"/v1/endpoints/{identifier}/recover", {"since": "2026-01-01T00:00:00Z"})
    assert started.status == 202
    assert (await api.get(started.headers["Location"])).json["id"] == started.json["id"]


async def test_the_same_callback_again_is_the_same_endpoint(api: Api) -> None:
    body = {"url": "https://example.com/jobs"}
    first = await api.post("/v1/jobs/job_1/callbacks", body)
    again = await api.post("/v1/jobs/job_1/callbacks", body)
    assert (first.status, again.status) == (201, 200)
    assert first.json["job_id"] == "job_1"
    assert (again.json["id"], again.json["secret"]) == (first.json["id"], first.json["secret"])
    assert (await api.get(first.headers["Location"])).status == 200
    assert (await api.post("/v1/jobs/job_2/callbacks", body)).status == 201


async def test_endpoints_are_listed_in_pages_newest_first(api: Api) -> None:
    made = [await rows.endpoint(api) for _ in range(5)]
    first = (await api.get("/v1/endpoints?limit=2")).json
    await rows.endpoint(api)
    second = (await api.get(f"/v1/endpoints?limit=2&cursor={first['next_cursor']}")).json
    third = (await api.get(f"/v1/endpoints?limit=2&cursor={second['next_cursor']}")).json
    listed = [endpoint["id"] for page in (first, second, third) for endpoint in page["data"]]
    assert listed == made[::-1]
    assert third["next_cursor"] is None


async def test_a_tenant_s_name_has_no_control_characters(api: Api) -> None:
    answered = await api.post("/v1/endpoints", {"url": "https://example.com/hook", "tenant": "a\nb"})
    assert (answered.status, answered.pointers) == (422, ["#/tenant"])


async def test_a_callback_is_listed_as_its_jobs_and_wakes_the_dispatcher(deployment: Deployment) -> None:
    woken = []
    async with running_api(deployment, on_published=lambda: woken.append(True)) as api:
        await rows.endpoint(api)
        made = await api.post("/v1/jobs/job_1/callbacks", {"url": "https://example.com/jobs", "expires_in_s": 60})
        assert woken
        listed = (await api.get("/v1/endpoints?job_id=job_1")).json["data"]
    assert [(one["id"], one["job_id"], one["expires_at"]) for one in listed] == [
        (made.json["id"], "job_1", made.json["expires_at"])
    ]
    assert made.json["expires_at"] is not None
