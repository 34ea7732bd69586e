"""Push notification configs as endpoints: whose they are, what changes and ends with them, and what is kept secret."""

import json
from typing import Any

import pytest
from a2a.auth.user import User
from a2a.server.context import ServerCallContext
from a2a.types import TaskPushNotificationConfig
from a2a.utils.errors import InvalidParamsError
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher.a2a import OutboxPushNotificationConfigStore
from dispatcher.ids import Kind, public_id
from dispatcher.outbox.publish import producer_settings
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.service import endpoint_changes
from dispatcher.states import DeliveryState, Reason
from dispatcher.store.endpoint_status import disable
from tests.outpost import Outpost
from tests.receiver import Receiver


class Named(User):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


ANNA, BEN = ServerCallContext(user=Named("anna")), ServerCallContext(user=Named("ben"))


def config(url: str = "http://127.0.0.1:8000/push", **given: Any) -> TaskPushNotificationConfig:
    return TaskPushNotificationConfig(url=url, **given)


async def endpoints(outpost: Outpost) -> list[Any]:
    return [row for row in await outpost.rows("endpoints", "created_at", "row_id") if row.deleted_at is None]


async def test_a_config_is_an_endpoint_bound_to_its_task_with_sealed_secrets(
    outpost: Outpost, engine: AsyncEngine
) -> None:
    given = config("http://127.0.0.1:8000/push?key=hidden", token="t0ken")
    given.authentication.scheme, given.authentication.credentials = "Bearer", "s3cret"
    stored = await OutboxPushNotificationConfigStore(engine).set_info("task_1", given, ANNA)
    assert (stored.id, stored.task_id, given.id) == ("task_1", "task_1", "")
    [row] = await endpoints(outpost)
    assert (row.tenant, row.job_id, row.profile, row.event_types) == ("default", "task_1", "a2a-1.0", '["*"]')
    assert json.loads(row.header_names) == ["X-A2A-Notification-Token", "A2A-Notification-Token", "Authorization"]
    shown = repr(tuple(row))
    assert not any(secret in shown for secret in ("t0ken", "s3cret", "hidden"))


async def test_configs_survive_a_restart_whole(outpost: Outpost, engine: AsyncEngine) -> None:
    whole = config(id="one", token="t0ken", tenant="acme")
    whole.authentication.scheme, whole.authentication.credentials = "Bearer", "a b"
    bare = config(id="two")
    named = config(id="three")
    named.authentication.scheme = "OAuth2"
    before = OutboxPushNotificationConfigStore(engine)
    stored = [await before.set_info("task_1", given, ANNA) for given in (whole, bare, named)]
    assert await OutboxPushNotificationConfigStore(engine).get_info("task_1", ANNA) == stored


async def test_each_owner_has_configs_of_its_own_and_all_are_told(outpost: Outpost, engine: AsyncEngine) -> None:
    store = OutboxPushNotificationConfigStore(engine)
    await store.set_info("task_1", config("http://127.0.0.1:8000/anna"), ANNA)
    await store.set_info("task_1", config("http://127.0.0.1:8000/ben"), BEN)
    await store.set_info("task_2", config("http://127.0.0.1:8000/other"), ANNA)
    assert [one.url for one in await store.get_info("task_1", ANNA)] == ["http://127.0.0.1:8000/anna"]
    assert len(await store.get_info_for_dispatch("task_1")) == 2
    await store.delete_info("task_1", BEN)
    assert [one.url for one in await store.get_info_for_dispatch("task_1")] == ["http://127.0.0.1:8000/anna"]
    await store.delete_info("task_1", ANNA, "another")
    assert len(await endpoints(outpost)) == 2


async def test_setting_a_config_again_sends_what_waits_to_the_new_place(
    outpost: Outpost, engine: AsyncEngine, receiver: Receiver
) -> None:
    store = OutboxPushNotificationConfigStore(engine)
    receiver.answers("/old", 500)
    await store.set_info("task_1", config(receiver.url("/old"), token="old"), ANNA)
    await outpost.publish("job.working", job_id="task_1")
    async with outpost.dispatcher(retry_schedule=(0.0,) * 50) as dispatcher:
        await receiver.wait_for(1, "/old")
        await store.set_info("task_1", config(receiver.url("/new")), ANNA)
        await receiver.wait_for(1, "/new")
        await dispatcher.until_idle()
    [request] = receiver.received("/new")
    assert "x-a2a-notification-token" not in request.headers
    assert len(await endpoints(outpost)) == 1


async def test_deleting_a_config_cancels_what_waits_for_it(outpost: Outpost, engine: AsyncEngine) -> None:
    store = OutboxPushNotificationConfigStore(engine)
    await store.set_info("task_1", config(), ANNA)
    await outpost.publish("job.working", job_id="task_1")
    async with outpost.store() as hot:
        await hot.fan_out(10)
    await store.delete_info("task_1", ANNA, "task_1")
    assert await endpoints(outpost) == []
    delivery = await outpost.delivery()
    assert (delivery.state, delivery.reason) == (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)
    await store.set_info("task_1", config("http://127.0.0.1:8000/again"), ANNA)
    assert [one.url for one in await store.get_info("task_1", ANNA)] == ["http://127.0.0.1:8000/again"]


@pytest.mark.parametrize(("reason", "status"), [(Reason.GONE, "enabled"), (Reason.OPERATOR, "disabled")])
async def test_a_config_that_was_disabled_is_enabled_by_setting_it_again_unless_the_operator_did_it(
    outpost: Outpost, engine: AsyncEngine, reason: Reason, status: str
) -> None:
    store = OutboxPushNotificationConfigStore(engine)
    await store.set_info("task_1", config(), ANNA)
    [row] = await endpoints(outpost)
    async with outpost.database.begin() as connection:
        assert await disable(connection, outpost.database, row.row_id, reason)
    await store.set_info("task_1", config(), ANNA)
    [row] = await endpoints(outpost)
    assert row.status == status


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/push", "http://127.0.0.1:8000/other"], ids=["same", "other"])
async def test_a_config_that_never_proved_itself_is_asked_anew_by_setting_it_again(
    outpost: Outpost, engine: AsyncEngine, producer_environment: pytest.MonkeyPatch, url: str
) -> None:
    producer_environment.setenv("DISPATCHER_VERIFY_ENDPOINTS", "true")
    producer_settings.cache_clear()
    store = OutboxPushNotificationConfigStore(engine)
    await store.set_info("task_1", config(), ANNA)
    [row] = await endpoints(outpost)
    async with outpost.database.begin() as connection:
        assert await disable(connection, outpost.database, row.row_id, Reason.EXPIRED)
    await store.set_info("task_1", config(url), ANNA)
    [row] = await endpoints(outpost)
    assert (row.status, row.url_shown) == ("paused", url)
    assert (row.challenge_due_at is not None, row.challenges) == (True, 0)
    assert [one.url for one in await store.get_info("task_1", ANNA)] == [url]


async def test_a_config_keeps_its_secret_when_it_is_set_again(outpost: Outpost, engine: AsyncEngine) -> None:
    asked = []

    def secret_for(owner: str) -> str:
        asked.append(owner)
        return f"the secret of {owner} {len(asked)}"

    store = OutboxPushNotificationConfigStore(engine, tenant="acme", secret_for=secret_for)
    for _ in range(2):
        await store.set_info("task_1", config(), ANNA)
    [sealed] = await outpost.rows("endpoint_secrets")
    opened = outpost.deployment.keyring.open(sealed.sealed, "secret", sealed.endpoint_row)
    assert SigningKeys.read(opened).secret.text == "the secret of anna 1"
    [row] = await endpoints(outpost)
    assert row.tenant == "acme"


async def test_the_deployment_s_defaults_hold_but_for_what_makes_it_a_push_notification(
    outpost: Outpost, engine: AsyncEngine, producer_environment: pytest.MonkeyPatch
) -> None:
    producer_environment.setenv(
        "DISPATCHER_ENDPOINT_DEFAULTS",
        '{"profile": "flat", "event_types": ["job.*"], "timeout_s": 3,'
        ' "headers": {"x-env": "test", "x-a2a-notification-token": "none"}}',
    )
    producer_settings.cache_clear()
    for _ in range(2):
        await OutboxPushNotificationConfigStore(engine).set_info("task_1", config(token="t0ken"), ANNA)
        [row] = await endpoints(outpost)
        assert (row.profile, row.event_types, row.timeout_s) == ("a2a-1.0", '["*"]', 3.0)
        assert json.loads(row.header_names) == ["x-env", "X-A2A-Notification-Token", "A2A-Notification-Token"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"url": "ftp://127.0.0.1/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": ""}, "url"),
        ({"token": "two\nlines"}, "headers"),
        ({"id": "x" * 256}, "id"),
    ],
)
async def test_a_config_that_cannot_be_kept_is_the_client_s_error(
    outpost: Outpost, engine: AsyncEngine, given: dict[str, str], named: str
) -> None:
    with pytest.raises(InvalidParamsError, match=named):
        await OutboxPushNotificationConfigStore(engine).set_info("task_1", config(**given), ANNA)
    assert await endpoints(outpost) == []


async def test_an_endpoint_of_somebody_else_at_the_same_job_is_no_config(outpost: Outpost, engine: AsyncEngine) -> None:
    other = await outpost.endpoint(job_id="task_1")
    store = OutboxPushNotificationConfigStore(engine)
    assert await store.get_info_for_dispatch("task_1") == []
    await store.delete_info("task_1", ServerCallContext())
    [row] = await endpoints(outpost)
    assert public_id(Kind.ENDPOINT, row.row_id) == other.id


async def test_a_config_deleted_while_it_is_set_is_set_anew(
    outpost: Outpost, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OutboxPushNotificationConfigStore(engine)
    await store.set_info("task_1", config(), ANNA)
    changing = endpoint_changes.update

    async def too_late(*arguments: Any, **named: Any) -> Any:
        await store.delete_info("task_1", ANNA)
        return await changing(*arguments, **named)

    monkeypatch.setattr("dispatcher.a2a.config_store.update", too_late)
    await store.set_info("task_1", config("http://127.0.0.1:8000/new"), ANNA)
    assert [one.url for one in await store.get_info("task_1", ANNA)] == ["http://127.0.0.1:8000/new"]
