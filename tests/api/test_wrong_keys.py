"""Whoever tries one key after another is slowed, alone or from many addresses; a right key is let in all the same."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dispatcher.api import answering, known_keys, wrong_keys
from dispatcher.api.auth import Authenticator, Unauthenticated
from dispatcher.api.wrong_keys import ADDRESS_BURST, ADDRESS_EVERY_S, OVERALL_BURST, OVERALL_EVERY_S, WrongKeys
from dispatcher.errors import StoreUnavailable, TooManyWrongKeys
from dispatcher.metrics import registry
from dispatcher.service import keys
from dispatcher.service.models import KeyCreate
from dispatcher.store.deployment import Deployment, open_deployment
from tests.api.client import Api
from tests.api.conftest import running_api, settings_for
from tests.clock import FakeClock

SHORT, LONG = "a-short-admin-key", "an-admin-key-that-nobody-can-guess"


@pytest.fixture
async def opened(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Deployment]:
    deployment = open_deployment(settings_for(sqlite_url), clock)
    yield deployment
    await deployment.database.close()


async def try_wrong_keys(process: Authenticator, count: int, address: str = "192.0.2.1") -> list[type[Exception]]:
    """What each of so many wrong keys is answered."""
    told: list[type[Exception]] = []
    for number in range(count):
        try:
            await process.caller(f"Bearer whk_guess-{number}", lambda: address)
        except (Unauthenticated, TooManyWrongKeys) as error:
            told.append(Unauthenticated if isinstance(error, Unauthenticated) else TooManyWrongKeys)
    return told


async def test_wrong_keys_from_one_address_are_told_to_slow_down_and_others_are_not(
    opened: Deployment, clock: FakeClock
) -> None:
    process = Authenticator(opened, LONG)
    told = await try_wrong_keys(process, ADDRESS_BURST + 5)
    assert told == [Unauthenticated] * ADDRESS_BURST + [TooManyWrongKeys] * 5
    assert await try_wrong_keys(process, 1, "192.0.2.2") == [Unauthenticated]
    clock.advance(ADDRESS_EVERY_S)
    assert await try_wrong_keys(process, 2) == [Unauthenticated, TooManyWrongKeys]


async def test_who_goes_on_while_slowed_waits_no_longer_than_who_stops(opened: Deployment, clock: FakeClock) -> None:
    process = Authenticator(opened, LONG)
    await try_wrong_keys(process, 500)
    with pytest.raises(TooManyWrongKeys) as slowed:
        await process.caller("Bearer whk_one-more", lambda: "192.0.2.1")
    assert 0 < slowed.value.retry_after_s <= ADDRESS_EVERY_S
    clock.advance(slowed.value.retry_after_s)
    assert await try_wrong_keys(process, 1) == [Unauthenticated]


async def test_who_sends_all_guesses_at_once_gets_no_further_than_one_after_another(
    opened: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, running, at_once = keys.look_up, 0, list[int]()

    async def counted(deployment: Deployment, digest: str) -> keys.Found | None:
        nonlocal running
        running += 1
        at_once.append(running)
        try:
            return await look_up(deployment, digest)
        finally:
            running -= 1

    monkeypatch.setattr(keys, "look_up", counted)
    process = Authenticator(opened, LONG)
    told = await asyncio.gather(*(try_wrong_keys(process, 1) for _ in range(5 * ADDRESS_BURST)))
    assert sum(one == [Unauthenticated] for one in told) == ADDRESS_BURST
    # None was counted when the first were looked at; from then on they wait for each other.
    assert max(at_once) <= known_keys.AT_ONCE + known_keys.IN_LINE
    assert max(at_once[ADDRESS_BURST + known_keys.AT_ONCE :]) <= known_keys.IN_LINE


async def test_while_the_database_is_away_nobody_waits_for_all_before_him(
    opened: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, back = keys.look_up, asyncio.Event()

    async def away(deployment: Deployment, digest: str) -> keys.Found | None:
        await back.wait()
        return await look_up(deployment, digest)

    monkeypatch.setattr(keys, "look_up", away)
    monkeypatch.setattr(known_keys, "TURN_S", 0.0)
    process = Authenticator(opened, LONG)
    made = [await keys.create(opened, KeyCreate(tenant=f"tenant{n}")) for n in range(known_keys.AT_ONCE + 1)]
    waiting = [asyncio.create_task(process.caller(f"Bearer {key.key}", lambda: "192.0.2.1")) for key in made]
    with pytest.raises(StoreUnavailable):
        await waiting[-1]
    back.set()
    assert [(await one).tenant for one in waiting[:-1]] == [key.tenant for key in made[:-1]]
    assert (await process.caller(f"Bearer {made[-1].key}", lambda: "192.0.2.1")).tenant == made[-1].tenant
    await process.close()


async def test_who_has_left_the_line_is_not_looked_up(opened: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Authenticator(opened, LONG)
    await try_wrong_keys(process, ADDRESS_BURST)
    looks: list[str] = []

    async def noted(deployment: Deployment, digest: str) -> None:
        looks.append(digest)

    monkeypatch.setattr(keys, "look_up", noted)
    with pytest.raises(TooManyWrongKeys):
        await process.caller("Bearer whk_left", lambda: "192.0.2.1", gone=lambda: True)
    assert looks == []
    with pytest.raises(TooManyWrongKeys):
        await process.caller("Bearer whk_left", lambda: "192.0.2.1", gone=lambda: False)
    assert len(looks) == 1


async def test_strangers_keep_no_tenant_out_not_even_from_its_own_address(opened: Deployment) -> None:
    process = Authenticator(opened, LONG)
    fresh = await keys.create(opened, KeyCreate(tenant="acme"))
    assert (await try_wrong_keys(process, ADDRESS_BURST * 2))[-1] is TooManyWrongKeys
    # Of a key that this process has never seen.
    assert (await process.caller(f"Bearer {fresh.key}", lambda: "192.0.2.1")).tenant == "acme"
    assert await process.caller(f"Bearer {LONG}", lambda: "192.0.2.1") == keys.ADMIN
    await process.close()


async def test_an_admin_key_that_can_be_guessed_is_not_looked_at_while_somebody_guesses(
    opened: Deployment, clock: FakeClock
) -> None:
    assert len(SHORT) < keys.SHORTEST_ADMIN_KEY <= len(LONG)
    process = Authenticator(opened, SHORT)
    await try_wrong_keys(process, ADDRESS_BURST)
    with pytest.raises(TooManyWrongKeys):
        await process.caller(f"Bearer {SHORT}", lambda: "192.0.2.1")
    assert await process.caller(f"Bearer {SHORT}", lambda: "192.0.2.2") == keys.ADMIN
    clock.advance(ADDRESS_EVERY_S)
    assert await process.caller(f"Bearer {SHORT}", lambda: "192.0.2.1") == keys.ADMIN


async def test_guesses_from_many_addresses_are_slowed_together(opened: Deployment, clock: FakeClock) -> None:
    process = Authenticator(opened, SHORT)
    told = [(await try_wrong_keys(process, 1, f"192.0.{n // 256}.{n % 256}"))[0] for n in range(OVERALL_BURST + 3)]
    assert told == [Unauthenticated] * OVERALL_BURST + [TooManyWrongKeys] * 3
    with pytest.raises(TooManyWrongKeys):
        await process.caller(f"Bearer {SHORT}", lambda: "198.51.100.1")
    fresh = await keys.create(opened, KeyCreate(tenant="acme"))
    assert (await process.caller(f"Bearer {fresh.key}", lambda: "192.0.0.1")).tenant == "acme"
    clock.advance(OVERALL_EVERY_S)
    assert await process.caller(f"Bearer {SHORT}", lambda: "198.51.100.1") == keys.ADMIN
    await process.close()


async def test_links_that_nobody_made_count_as_wrong_keys(opened: Deployment) -> None:
    process = Authenticator(opened, LONG)
    for _ in range(ADDRESS_BURST):
        with pytest.raises(Unauthenticated):
            await process.caller(None, lambda: "192.0.2.1", token="job_nonsense", job_id="job_1")
    with pytest.raises(TooManyWrongKeys):
        await process.caller("Bearer job_nonsense", lambda: "192.0.2.1")


def test_only_so_many_addresses_are_remembered(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrong_keys, "MOST_ADDRESSES", 50)
    wrong = WrongKeys(clock)
    for number in range(OVERALL_BURST):
        wrong.count(f"address {number}")
    assert len(wrong._ahead_until) == 50
    assert f"address {OVERALL_BURST - 1}" in wrong._ahead_until


async def test_the_answer_says_when_to_try_again_and_is_counted_and_not_logged(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    guesser = api.under("whk_guess")
    for _ in range(ADDRESS_BURST):
        assert (await guesser.get("/v1/events")).status == 401
    logged = [record.getMessage() for record in caplog.records if "api.refused" in record.getMessage()]
    assert len(logged) == ADDRESS_BURST
    assert "address=127.0.0.1" in logged[0]
    before = _refused("too-many-wrong-keys")
    slowed = await guesser.get("/v1/events")
    assert (slowed.status, slowed.problem) == (429, "too-many-wrong-keys")
    assert 1 <= int(slowed.headers["Retry-After"]) <= ADDRESS_EVERY_S
    assert sum("api.refused" in record.getMessage() for record in caplog.records) == ADDRESS_BURST
    # Whoever has a right one is not kept waiting, nor who needs none.
    assert (await api.get("/v1/events")).status == 200
    assert (await api.under(None).get("/healthz")).status == 200
    assert _refused("too-many-wrong-keys") == before + 1


async def test_whoever_is_refused_all_the_time_does_not_fill_the_log(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "FORBIDDEN_BURST", 3)
    monkeypatch.setattr(answering, "FORBIDDEN_EVERY_S", 1000.0)
    made = (await api.post("/v1/keys", {"tenant": "acme"})).json
    for _ in range(6):
        assert (await api.under(made["key"]).get("/v1/keys")).status == 403
    logged = [record.getMessage() for record in caplog.records if "api.refused" in record.getMessage()]
    assert len(logged) == 3
    assert f"key_id={made['id']}" in logged[0]
    # Its lines leave room for those about wrong keys.
    assert (await api.under("whk_guess").get("/v1/keys")).status == 401
    assert sum("api.refused" in record.getMessage() for record in caplog.records) == 4


def _refused(problem: str) -> float:
    return registry.get_sample_value("dispatcher_api_refused_total", {"problem": problem}) or 0.0


async def test_behind_a_proxy_that_is_named_each_client_is_counted_by_itself(sqlite_url: str) -> None:
    settings = settings_for(sqlite_url).model_dump() | {"trusted_proxies": "127.0.0.0/8"}
    opened = open_deployment(type(settings_for(sqlite_url))(**settings))
    async with running_api(opened) as api:

        async def guess(address: str) -> int:
            sent = await api.under("whk_guess").send("GET", "/v1/events", headers={"X-Forwarded-For": address})
            return sent.status

        assert [await guess("198.51.100.1") for _ in range(ADDRESS_BURST + 1)][-2:] == [401, 429]
        # What a client writes itself stands before what the proxy adds.
        assert await guess("203.0.113.7, 198.51.100.1") == 429
        assert await guess("198.51.100.2") == 401
    await opened.database.close()
