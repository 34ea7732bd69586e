"""Endpoints through the service: registered once, shown without secrets, changed for every attempt after the answer."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from dispatcher.errors import ConfigurationError, Conflict, InvalidField, InvalidFields, NotFound
from dispatcher.ids import Kind, row_id
from dispatcher.rules.verdict import Outcome
from dispatcher.rules.verifying import verify
from dispatcher.service import endpoints
from dispatcher.service.models import (
    CallbackCreate,
    Endpoint,
    EndpointCreate,
    EndpointUpdate,
    EndpointWithSecret,
    Recover,
    RotateSecret,
)
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason
from dispatcher.store import endpoint_status
from dispatcher.store.endpoint_policies import load_policy
from tests.clock import FakeClock
from tests.receiver import Receiver
from tests.service.conftest import open_scene
from tests.service.scene import URL, Scene


async def update(scene: Scene, endpoint_id: str, **fields: object) -> Endpoint:
    return await endpoints.update(scene.deployment, endpoint_id, EndpointUpdate.read(fields), tenant=None)


async def test_an_endpoint_is_stored_with_every_field_and_read_back(scene: Scene) -> None:
    fields = {
        "description": "für alle",
        "event_types": ["task.failed", "job.*"],
        "profile": "flat",
        "ordered": False,
        "order_hold_s": None,
        "progress_interval_s": 10.0,
        "signature_header": "X-Agent-Signature",
        "signature_prefix": "sha256=",
        "headers": {"X-Api-Key": "k3y"},
        "rate_limit": 2.5,
        "max_in_flight": 3,
        "retry_schedule": [1, 2.5],
        "timeout_s": 7.5,
        "metadata": {"team": "ü"},
        "secret": "s3cret-text",
    }
    created = await scene.endpoint(tenant="acme", **fields)
    read = await endpoints.get(scene.deployment, created.id, tenant="acme")
    assert created.secret == "s3cret-text"
    assert read.model_dump() == created.model_dump(exclude={"secret"})
    expected = fields | {
        "tenant": "acme",
        "url": "https://example.com/hook?token=***",
        "headers": {"X-Api-Key": "***"},
        "status": "enabled",
        "disabled_reason": None,
        "job_id": None,
        "created_at": "2026-01-01T12:00:00Z",
    }
    del expected["secret"]
    assert {name: read.model_dump()[name] for name in expected} == expected


async def test_what_the_engine_reads_is_what_was_registered(sqlite_scene: Scene) -> None:
    created = await sqlite_scene.endpoint(
        headers={"X-Api-Key": "k3y"}, retry_schedule=[1, 2], secret="s3cret-text", timeout_s=3, order_hold_s=None
    )
    policy = await load_policy(
        sqlite_scene.deployment.database,
        sqlite_scene.deployment.keyring,
        sqlite_scene.deployment.settings,
        row_id(Kind.ENDPOINT, created.id),
    )
    assert policy is not None
    assert (str(policy.url), policy.headers, policy.keys) == (URL, {"X-Api-Key": "k3y"}, (b"s3cret-text",))
    assert (policy.retry.schedule, policy.timeout_s, policy.hold_s) == ((1.0, 2.0), 3.0, None)


async def test_neither_url_nor_secret_nor_header_is_readable_at_rest(sqlite_scene: Scene) -> None:
    created = await sqlite_scene.endpoint(url="https://u:pa55word@example.com/?t=t0ken", headers={"X-Key": "h3ader"})
    tables = sqlite_scene.deployment.database.tables
    async with sqlite_scene.deployment.database.read() as connection:
        stored = [
            repr(tuple(row))
            for table in (tables.endpoints, tables.endpoint_secrets)
            for row in await connection.execute(select(table))
        ]
    assert len(stored) == 2
    for secret in ("pa55word", "t0ken", "h3ader", created.secret):
        assert not any(secret in row for row in stored)
        assert secret not in repr(await endpoints.get(sqlite_scene.deployment, created.id, tenant=None))
    assert created.secret not in repr(created)


async def test_a_secret_is_made_where_none_is_given(sqlite_scene: Scene) -> None:
    first, second = await sqlite_scene.endpoint(), await sqlite_scene.endpoint()
    assert first.secret.startswith("whsec_")
    assert first.secret != second.secret


async def test_the_same_idempotency_key_and_body_is_the_same_endpoint(scene: Scene) -> None:
    body = EndpointCreate.read({"url": URL, "event_types": ["a"]})

    async def create() -> tuple[EndpointWithSecret, bool]:
        return await endpoints.create(scene.deployment, body, tenant="acme", idempotency_key="k")

    answers = await asyncio.gather(create(), create(), create())
    assert len({(answer.id, answer.secret) for answer, _ in answers}) == 1
    assert sorted(anew for _, anew in answers) == [False, False, True]
    other_tenant, anew = await endpoints.create(scene.deployment, body, tenant="other", idempotency_key="k")
    assert anew
    assert other_tenant.id != answers[0][0].id


async def test_an_idempotency_key_with_another_body_is_a_conflict(sqlite_scene: Scene) -> None:
    for given in ({"secret": "another-secret"}, {"ordered": True}):
        body = EndpointCreate.read({"url": URL})
        await endpoints.create(sqlite_scene.deployment, body, tenant="a", idempotency_key="k")
        with pytest.raises(Conflict, match="another body"):
            await endpoints.create(
                sqlite_scene.deployment, EndpointCreate.read({"url": URL, **given}), tenant="a", idempotency_key="k"
            )


async def test_endpoint_defaults_fill_what_is_not_given(sqlite_url: str, clock: FakeClock) -> None:
    defaults = {"profile": "flat", "signature_header": "X-Agent-Signature", "timeout_s": 3, "event_types": ["job.*"]}
    async with open_scene(sqlite_url, clock, endpoint_defaults=defaults) as scene:
        filled = await scene.endpoint()
        told = await scene.endpoint(profile="raw", timeout_s=None)
    assert (filled.profile, filled.signature_header, filled.timeout_s) == ("flat", "X-Agent-Signature", 3.0)
    assert filled.event_types == ["job.*"]
    assert (told.profile, told.signature_header, told.timeout_s) == ("raw", "X-Agent-Signature", None)


async def test_bad_endpoint_defaults_are_an_operators_error(sqlite_url: str, clock: FakeClock) -> None:
    defaults = {"profile": "yaml", "secret": "s3cret-text"}
    with pytest.raises(ConfigurationError, match=r"DISPATCHER_ENDPOINT_DEFAULTS: .*profile.*secret") as raised:
        async with open_scene(sqlite_url, clock, endpoint_defaults=defaults):
            pass
    assert "s3cret-text" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"headers": {"X-A": "***"}}, "headers/X-A"),
        ({"headers": {"X-Sig": "1"}, "signature_header": "x-sig"}, "signature_header"),
    ],
)
async def test_a_refused_endpoint_names_its_field_and_stores_nothing(
    sqlite_scene: Scene, fields: dict[str, object], field: str
) -> None:
    body = EndpointCreate.read({"url": URL, **fields})
    with pytest.raises(InvalidField) as raised:
        await endpoints.create(sqlite_scene.deployment, body, tenant="default")
    assert raised.value.field == field
    assert (await endpoints.list_page(sqlite_scene.deployment, tenant=None)).data == []


async def test_another_tenants_endpoint_is_not_found(scene: Scene) -> None:
    deployment, theirs = scene.deployment, await scene.endpoint(tenant="acme")
    since = Recover.read({"since": "2026-01-01T00:00:00Z"})
    calls = (
        lambda: endpoints.get(deployment, theirs.id, tenant="evil"),
        lambda: endpoints.update(deployment, theirs.id, EndpointUpdate.read({"ordered": False}), tenant="evil"),
        lambda: endpoints.delete(deployment, theirs.id, tenant="evil"),
        lambda: endpoints.set_status(deployment, theirs.id, "pause", tenant="evil"),
        lambda: endpoints.rotate_secret(deployment, theirs.id, RotateSecret(), tenant="evil"),
        lambda: endpoints.recover(deployment, theirs.id, since, tenant="evil"),
        lambda: endpoints.send_test(deployment, theirs.id, tenant="evil"),
    )
    for call in calls:
        with pytest.raises(NotFound):
            await call()
    assert (await endpoints.list_page(deployment, tenant="evil")).data == []
    assert [one.id for one in (await endpoints.list_page(deployment, tenant="acme")).data] == [theirs.id]
    assert await endpoints.get(deployment, theirs.id, tenant="acme") == await endpoints.get(
        deployment, theirs.id, tenant=None
    )


async def test_pages_stay_stable_while_endpoints_arrive(scene: Scene) -> None:
    made = []
    for _ in range(5):
        made.append((await scene.endpoint()).id)
        scene.clock.advance(1)
    first = await endpoints.list_page(scene.deployment, tenant="default", limit=2)
    await scene.endpoint()
    second = await endpoints.list_page(scene.deployment, tenant="default", limit=2, cursor=first.next_cursor)
    third = await endpoints.list_page(scene.deployment, tenant="default", limit=2, cursor=second.next_cursor)
    listed = [one.id for page in (first, second, third) for one in page.data]
    assert listed == made[::-1]
    assert third.next_cursor is None


async def test_endpoints_of_one_instant_are_each_listed_once(sqlite_scene: Scene) -> None:
    made = {(await sqlite_scene.endpoint()).id for _ in range(5)}
    listed, cursor = [], None
    for _ in range(3):
        page = await endpoints.list_page(sqlite_scene.deployment, tenant=None, limit=2, cursor=cursor)
        listed += [one.id for one in page.data]
        cursor = page.next_cursor
    assert cursor is None
    assert sorted(listed) == sorted(made)


async def test_lists_filter_by_job_and_status(sqlite_scene: Scene) -> None:
    plain = await sqlite_scene.endpoint()
    await endpoints.set_status(sqlite_scene.deployment, plain.id, "pause", tenant=None)
    callback, _ = await endpoints.create_callback(
        sqlite_scene.deployment, "job_1", CallbackCreate.read({"url": URL}), tenant="default"
    )
    by_job = await endpoints.list_page(sqlite_scene.deployment, tenant=None, job_id="job_1")
    paused = await endpoints.list_page(sqlite_scene.deployment, tenant=None, status="paused")
    assert [one.id for one in by_job.data] == [callback.id]
    assert [one.id for one in paused.data] == [plain.id]


async def test_an_update_changes_what_is_given_and_nothing_else(scene: Scene) -> None:
    before = await scene.endpoint(rate_limit=5, description="old", headers={"X-A": "1"})
    scene.clock.advance(60)
    after = await update(
        scene, before.id, rate_limit=None, target_url="https://example.org/x", events=["job.*"], metadata={"a": "b"}
    )
    changed = {name for name in after.model_dump() if after.model_dump()[name] != before.model_dump()[name]}
    assert changed == {"rate_limit", "url", "event_types", "metadata", "updated_at"}
    assert (after.rate_limit, after.url, after.event_types) == (None, "https://example.org/x", ["job.*"])
    assert await scene.patterns() == [("default", "job.*")]


async def test_every_change_raises_the_version_that_attempts_are_made_under(scene: Scene) -> None:
    endpoint_id = (await scene.endpoint()).id
    endpoint_row = row_id(Kind.ENDPOINT, endpoint_id)

    async def version() -> int:
        e = scene.deployment.database.tables.endpoints.c
        async with scene.deployment.database.read() as connection:
            return int((await connection.execute(select(e.version).where(e.row_id == endpoint_row))).scalar_one())

    seen = [await version()]
    await update(scene, endpoint_id, ordered=False)
    seen.append(await version())
    await endpoints.rotate_secret(scene.deployment, endpoint_id, RotateSecret(), tenant=None)
    seen.append(await version())
    actions: tuple[endpoints.Action, ...] = ("pause", "resume", "disable", "enable")
    for action in actions:
        await endpoints.set_status(scene.deployment, endpoint_id, action, tenant=None)
        seen.append(await version())
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    await update(scene, endpoint_id)
    await endpoints.set_status(scene.deployment, endpoint_id, "enable", tenant=None)
    assert await version() == 7


async def test_stars_sent_back_leave_a_headers_value(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    created = await scene.endpoint(headers={"X-Keep": "kept", "X-Change": "old", "X-Drop": "gone"})
    after = await update(scene, created.id, headers={"x-keep": "***", "X-Change": "new"})
    assert after.headers == {"x-keep": "***", "X-Change": "***"}
    policy = await load_policy(
        scene.deployment.database,
        scene.deployment.keyring,
        scene.deployment.settings,
        row_id(Kind.ENDPOINT, created.id),
    )
    assert policy is not None
    assert policy.headers == {"x-keep": "kept", "X-Change": "new"}
    with pytest.raises(InvalidField, match="headers/X-New"):
        await update(scene, created.id, headers={"X-New": "***"})
    with pytest.raises(InvalidField, match="signature_header"):
        await update(scene, created.id, signature_header="X-KEEP")


async def test_a_paused_endpoint_keeps_what_comes_and_a_disabled_one_matches_nothing(scene: Scene) -> None:
    endpoint = await scene.endpoint(event_types=["b.*", "a"])
    await endpoints.set_status(scene.deployment, endpoint.id, "pause", tenant=None)
    await scene.publish("a")
    await scene.fan_out()
    disabled = await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    assert (disabled.status, disabled.disabled_reason) == (EndpointStatus.DISABLED, Reason.OPERATOR)
    assert disabled.event_types == ["b.*", "a"]
    assert [(one.state, one.reason) for one in await scene.deliveries()] == [(DeliveryState.CANCELLED, Reason.OPERATOR)]
    await scene.publish("a")
    await scene.fan_out()
    enabled = await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    assert (enabled.status, enabled.disabled_reason) == (EndpointStatus.ENABLED, None)
    await scene.publish("b.c")
    await scene.fan_out()
    assert [(one.type, one.state) for one in await scene.deliveries()] == [
        ("b.c", DeliveryState.PENDING),
        ("a", DeliveryState.CANCELLED),
    ]


async def test_an_endpoint_that_the_engine_disabled_matches_its_types_again_once_enabled(scene: Scene) -> None:
    endpoint = await scene.endpoint(event_types=["b", "a"])
    async with scene.deployment.database.begin() as connection:
        await endpoint_status.disable(
            connection, scene.deployment.database, row_id(Kind.ENDPOINT, endpoint.id), Reason.GONE
        )
    assert await scene.patterns() == []
    enabled = await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    assert enabled.event_types == ["b", "a"]
    assert await scene.patterns() == [("default", "a"), ("default", "b")]


async def test_disabling_cancels_more_than_one_batch(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    endpoint = await scene.endpoint()
    for _ in range(3):
        await scene.publish()
    await scene.fan_out()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dispatcher.service.endpoint_changes._CANCEL_BATCH", 2)
        await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    assert {one.state for one in await scene.deliveries()} == {DeliveryState.CANCELLED}


async def test_a_disabled_endpoint_is_neither_paused_nor_resumed(sqlite_scene: Scene) -> None:
    endpoint = await sqlite_scene.endpoint()
    await endpoints.set_status(sqlite_scene.deployment, endpoint.id, "disable", tenant=None)
    actions: tuple[endpoints.Action, ...] = ("pause", "resume")
    for action in actions:
        with pytest.raises(Conflict, match="enable it first"):
            await endpoints.set_status(sqlite_scene.deployment, endpoint.id, action, tenant=None)


async def test_enabling_forgets_failures_and_lifts_an_expiry_that_has_passed(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    body = CallbackCreate.read({"url": URL, "expires_in_s": 60})
    callback, _ = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    state = scene.deployment.database.tables.endpoint_state
    async with scene.deployment.database.begin() as connection:
        await connection.execute(state.update().values(failures_in_row=40, paused_until=scene.clock.now(), ramp=1))
    await endpoints.set_status(scene.deployment, callback.id, "disable", tenant=None)
    scene.clock.advance(61)
    enabled = await endpoints.set_status(scene.deployment, callback.id, "enable", tenant=None)
    assert enabled.expires_at is None
    async with scene.deployment.database.read() as connection:
        row = (await connection.execute(select(state))).one()
    assert (row.failures_in_row, row.paused_until, row.ramp) == (0, None, None)


async def test_deleting_wipes_what_is_secret_and_cancels_what_waits(scene: Scene) -> None:
    endpoint = await scene.endpoint(headers={"X-A": "1"})
    await scene.publish()
    await scene.fan_out()
    await endpoints.delete(scene.deployment, endpoint.id, tenant="default")
    assert [(one.state, one.reason) for one in await scene.deliveries()] == [
        (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)
    ]
    with pytest.raises(NotFound):
        await endpoints.get(scene.deployment, endpoint.id, tenant=None)
    tables = scene.deployment.database.tables
    async with scene.deployment.database.read() as connection:
        row = (await connection.execute(select(tables.endpoints))).one()
        secrets = (await connection.execute(select(tables.endpoint_secrets))).all()
    assert (row.url_sealed, row.headers_sealed, secrets) == (b"", None, [])
    assert await scene.patterns() == []


async def test_rotating_keeps_the_old_secret_for_the_overlap(scene: Scene) -> None:
    endpoint = await scene.endpoint(secret="first-secret")
    endpoint_row = row_id(Kind.ENDPOINT, endpoint.id)

    async def keys() -> tuple[bytes, ...]:
        policy = await load_policy(
            scene.deployment.database, scene.deployment.keyring, scene.deployment.settings, endpoint_row
        )
        assert policy is not None
        return policy.keys

    async def rotate(**fields: object) -> EndpointWithSecret:
        return await endpoints.rotate_secret(scene.deployment, endpoint.id, RotateSecret.read(fields), tenant="default")

    rotated = await rotate(secret="second-secret", overlap_s=60)
    assert rotated.secret == "second-secret"
    assert await keys() == (b"second-secret", b"first-secret")
    scene.clock.advance(61)
    assert await keys() == (b"second-secret",)
    with pytest.raises(InvalidField, match="secret"):
        await rotate(secret="second-secret")
    made = await rotate(overlap_s=0)
    assert made.secret.startswith("whsec_")
    assert len(await keys()) == 1


async def test_a_callback_registered_again_is_the_same_endpoint_with_its_secret(scene: Scene) -> None:
    body = CallbackCreate.read({"url": URL})

    async def register(job_id: str, tenant: str = "acme") -> tuple[EndpointWithSecret, bool]:
        return await endpoints.create_callback(scene.deployment, job_id, body, tenant=tenant)

    first, anew = await register("job_1")
    again, anew_again = await register("job_1")
    assert (anew, anew_again) == (True, False)
    assert again == first
    assert first.job_id == "job_1"
    others = {(await register("job_2"))[0].id, (await register("job_1", "other"))[0].id}
    assert len(others | {first.id}) == 3


async def test_a_callback_gets_its_jobs_events_only(sqlite_scene: Scene) -> None:
    body = CallbackCreate.read({"url": URL})
    callback, _ = await endpoints.create_callback(sqlite_scene.deployment, "job_1", body, tenant="default")
    for job_id in ("job_1", "job_2", None):
        await sqlite_scene.publish(job_id=job_id)
    await sqlite_scene.fan_out()
    assert [(one.job_id, one.endpoint_id) for one in await sqlite_scene.deliveries()] == [("job_1", callback.id)]


async def test_a_deleted_callback_can_be_registered_anew_under_a_higher_version(scene: Scene) -> None:
    body = CallbackCreate.read({"url": URL})
    first, _ = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    await endpoints.delete(scene.deployment, first.id, tenant=None)
    second, anew = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    assert anew
    assert second.id == first.id
    assert second.secret != first.secret
    policy = await load_policy(
        scene.deployment.database, scene.deployment.keyring, scene.deployment.settings, row_id(Kind.ENDPOINT, first.id)
    )
    assert policy is not None
    assert policy.version == 3


@pytest.mark.parametrize("job_id", ["", "x" * 256, "a\x00b"])
async def test_a_callbacks_job_id_is_vetted(sqlite_scene: Scene, job_id: str) -> None:
    with pytest.raises(InvalidField, match="job_id"):
        await endpoints.create_callback(
            sqlite_scene.deployment, job_id, CallbackCreate.read({"url": URL}), tenant="default"
        )


async def test_recover_takes_what_matches_was_published_then_and_was_not_delivered(scene: Scene) -> None:
    endpoint = await scene.endpoint(event_types=["job.*", "under_score"])
    await scene.publish("job.early")
    scene.clock.advance(60)
    await scene.publish("job.delivered")
    await scene.fan_out()
    await scene.end(await scene.claim(), Outcome.DELIVERED)
    since = scene.clock.now()
    await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    missed = [await scene.publish(event_type) for event_type in ("job.a", "under_score", "job.b.c")]
    for other in ("job", "other", "underXscore", "JOB.a"):
        await scene.publish(other)
    await scene.publish("job.a", tenant="other")
    await scene.fan_out()
    scene.clock.advance(60)
    await scene.publish("job.late")
    body = Recover(since=since, until=scene.clock.now(), rate_per_s=5)
    with pytest.raises(Conflict, match="enable it"):
        await endpoints.recover(scene.deployment, endpoint.id, body, tenant=None)
    await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    run = await endpoints.recover(scene.deployment, endpoint.id, body, tenant=None)
    assert (run.matched, run.dry_run) == (3, False)
    tables = scene.deployment.database.tables
    async with scene.deployment.database.read() as connection:
        listed = await connection.execute(
            select(tables.events.c.id)
            .join(tables.redelivery_items, tables.redelivery_items.c.event_row == tables.events.c.row_id)
            .order_by(tables.events.c.row_id)
        )
        assert list(listed.scalars()) == [one.id for one in missed]


async def test_recover_leaves_what_still_waits_to_be_fanned_out(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.publish()
    run = await endpoints.recover(
        scene.deployment, endpoint.id, Recover.read({"since": "2026-01-01T00:00:00Z"}), tenant=None
    )
    assert run.matched == 0


async def test_recover_wants_its_times_in_order(sqlite_scene: Scene) -> None:
    endpoint = await sqlite_scene.endpoint()
    body = Recover.read({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"})
    with pytest.raises(InvalidField, match="until"):
        await endpoints.recover(sqlite_scene.deployment, endpoint.id, body, tenant=None)


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        ({"url": "u", "target_url": "u"}, ["target_url"]),
        ({"url": "u", "event_types": ["a"], "event_type": "a", "events": ["a"]}, ["events", "event_type"]),
        (
            {"url": "u", "kind": 1, "heartbeat_s": 5, "progress_interval_s": 0},
            ["heartbeat_s", "kind", "progress_interval_s"],
        ),
        ({"url": "u", "event_types": []}, ["event_types"]),
        (
            {"url": "u", "event_types": ["a..b"], "timeout_s": 0.05, "rate_limit": 0},
            ["event_types", "rate_limit", "timeout_s"],
        ),
        ({"url": "u", "retry_schedule": [1] * 51}, ["retry_schedule"]),
        ({"url": "u", "retry_schedule": [float("nan")]}, ["retry_schedule/0"]),
        ({"url": "u", "secret": "short"}, ["secret"]),
        ({"url": "u", "headers": {"Host": "x"}}, ["headers"]),
        ({"url": "u", "headers": {"X-A": "a\r\nb"}}, ["headers"]),
        ({"url": "u", "metadata": {"a": 1}}, ["metadata/a"]),
        ({"url": "u", "metadata": {str(n): "" for n in range(51)}}, ["metadata"]),
        ({"url": "u", "description": "a\x00"}, ["description"]),
        ({"url": "u", "ordered": None, "profile": None}, ["ordered", "profile"]),
        ({"url": "u", "max_in_flight": True}, ["max_in_flight"]),
        ({}, ["url"]),
        ([], ["body"]),
    ],
)
def test_everything_that_is_wrong_with_an_endpoint_is_named_at_once(payload: object, fields: list[str]) -> None:
    with pytest.raises(InvalidFields) as raised:
        EndpointCreate.read(payload)
    assert sorted(problem.field for problem in raised.value.problems) == sorted(fields)


def test_aliases_are_read_as_the_fields_they_name() -> None:
    for model in (EndpointCreate, CallbackCreate, EndpointUpdate):
        body = model.read({"target_url": "https://example.com/", "event_type": "task.completed"})
        assert (body.url, body.event_types) == ("https://example.com/", ["task.completed"])
        assert model.read({"url": "u", "events": ["a", "b", "a"]}).event_types == ["a", "b"]


async def test_a_test_event_arrives_signed_and_its_answer_is_told(
    sqlite_url: str, clock: FakeClock, receiver: Receiver
) -> None:
    networks = {"allow_http": True, "allow_networks": "127.0.0.0/8"}
    receiver.answers("/refused", 500)
    # Receivers compare the signature's time with their clock.
    clock.jump((datetime.now(UTC) - clock.now()).total_seconds())
    async with open_scene(sqlite_url, clock, **networks) as scene:
        good = await scene.endpoint(url=receiver.url("/hook"))
        refused = await scene.endpoint(url=receiver.url("/refused"))
        told = await endpoints.send_test(scene.deployment, good.id, tenant="default")
        failed = await endpoints.send_test(scene.deployment, refused.id, tenant="default")
    assert (told.delivered, told.status, told.error) == (True, 200, None)
    assert (failed.delivered, failed.status, failed.error) == (False, 500, AttemptError.HTTP_STATUS)
    (received,) = receiver.received("/hook")
    verify(received.body, received.headers, good.secret)
    assert b'"type":"webhook.test"' in received.body
