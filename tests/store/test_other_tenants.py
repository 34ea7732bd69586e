"""Beside a tenant's many endpoints: the others' are looked at by every claim, all of them in turn, and none twice."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import closing

import pytest

from dispatcher.store import other_tenants
from dispatcher.store.hot import HotStore
from dispatcher.store.other_tenants import OtherTenants
from dispatcher.store.sqlite.window import Window
from tests.outpost import Outpost, Registered, finished
from tests.store.steps import claim

WINDOW = 5
OTHERS = 4
OTHERS_HEADS = 8
#: Claims until the window has been at all endpoints of the tenant that has many.
TURN = 8


@pytest.fixture
async def store(outpost: Outpost, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HotStore]:
    """A store whose claims look at few endpoints."""
    for dialect in ("postgres", "sqlite"):
        for name, value in (("WINDOW", WINDOW), ("OTHERS", OTHERS), ("OTHERS_HEADS", OTHERS_HEADS)):
            monkeypatch.setattr(f"dispatcher.store.{dialect}.window.{name}", value)
    monkeypatch.setattr("dispatcher.store.postgres.claim.OTHERS_HEADS", OTHERS_HEADS)
    monkeypatch.setattr(other_tenants, "OTHERS", OTHERS)
    async with outpost.store() as narrow:
        yield narrow


async def _backlog(outpost: Outpost, store: HotStore, tenant: str, *, endpoints: int, events: int) -> list[Registered]:
    rows = len(await outpost.rows("endpoints"))
    made = [
        # Those made later are behind the others.
        await outpost.endpoint(tenant=tenant, row_id=10 * (rows + n + 1), max_in_flight=1)
        for n in range(endpoints)
    ]
    await outpost.publish(*["a"] * events, tenant=tenant)
    while (await store.fan_out(100)).events:
        pass
    return made


async def _delivered(outpost: Outpost, store: HotStore) -> Counter[int]:
    """A claim, and all that it took is delivered; how many by endpoint."""
    claimed = await claim(store)
    await store.record([finished(one, at=outpost.clock.now()) for one in claimed])
    return Counter(one.endpoint_row for one in claimed)


async def _both_served_each_time(outpost: Outpost, store: HotStore, claims: int, *between: tuple[str, int]) -> None:
    """Whether tenants with one endpoint each, before and behind those that have so many, are served by each claim."""
    singles = {tenant: await outpost.endpoint(tenant=tenant) for tenant in ("a", "z")}
    for name, endpoints in between:
        await _backlog(outpost, store, name, endpoints=endpoints, events=TURN)
    for _ in range(claims):
        for tenant in singles:
            await outpost.publish("a", tenant=tenant)
        await store.fan_out(100)
        served = await _delivered(outpost, store)
        assert [served[single.row] for single in singles.values()] == [1, 1]


async def test_nobody_waits_for_a_turn_of_all_endpoints_of_another_tenant(outpost: Outpost, store: HotStore) -> None:
    await _both_served_each_time(outpost, store, 2 * TURN, ("many", WINDOW * TURN))


async def test_nobody_waits_where_a_window_is_of_two_tenants(outpost: Outpost, store: HotStore) -> None:
    await _both_served_each_time(outpost, store, 2, ("b", WINDOW + 2), ("many", WINDOW * TURN))


async def test_who_has_many_endpoints_is_not_delayed_by_those_who_have_few(outpost: Outpost, store: HotStore) -> None:
    many = await _backlog(outpost, store, "many", endpoints=WINDOW * TURN, events=2)
    await _backlog(outpost, store, "a", endpoints=1, events=100)
    await _backlog(outpost, store, "z", endpoints=1, events=100)
    served: Counter[int] = Counter()
    # One more for each turn, since the others' endpoints are part of it.
    for _ in range(2 * TURN + 2):
        served += await _delivered(outpost, store)
    assert {row: n for row, n in served.items() if row in {one.row for one in many}} == {one.row: 2 for one in many}


async def test_no_endpoint_is_looked_at_twice_by_a_claim(outpost: Outpost, store: HotStore) -> None:
    # The window is between the others, or among the others' endpoints.
    for tenant, endpoints in (("a", 2), ("many", 12), ("y", 4), ("z", 1)):
        await _backlog(outpost, store, tenant, endpoints=endpoints, events=6)
    while served := await _delivered(outpost, store):
        # As many as it may have in flight.
        assert set(served.values()) == {1}
    assert {row.state for row in await outpost.deliveries()} == {"delivered"}


@pytest.mark.parametrize("behind", [OTHERS_HEADS, 10])
async def test_a_tenants_endpoints_that_are_full_do_not_hide_its_others(
    outpost: Outpost, store: HotStore, behind: int
) -> None:
    few = await _backlog(outpost, store, "few", endpoints=10, events=1)
    stuck = []
    while more := await claim(store):
        stuck += [one.endpoint_row for one in more]
    assert sorted(stuck) == sorted(one.row for one in few)
    free = await outpost.endpoint(tenant="few", row_id=few[behind - 1].row + 1)
    await _backlog(outpost, store, "few", endpoints=0, events=1)
    await _backlog(outpost, store, "many", endpoints=2 * WINDOW * TURN, events=5)
    for _ in range(3):
        # It is looked at in every other claim; the window, which has them looked at from the first one on again, comes
        # once in these.
        assert sum([(await _delivered(outpost, store))[free.row] for _ in range(TURN // 2)]) == 1
        await outpost.publish("a", tenant="few")
        await store.fan_out(100)


async def test_more_tenants_than_a_claim_looks_at_have_their_turns(outpost: Outpost, store: HotStore) -> None:
    await _backlog(outpost, store, "many", endpoints=WINDOW * TURN * 2, events=3)
    singles = [(await _backlog(outpost, store, f"t{n}", endpoints=1, events=1))[0] for n in range(2 * OTHERS + 1)]
    served: Counter[int] = Counter()
    for _ in range(3):
        served += await _delivered(outpost, store)
    assert {one.row: served[one.row] for one in singles} == {one.row: 1 for one in singles}


async def test_a_tenant_that_is_no_text_keeps_nobody_from_being_served(
    sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.sqlite.window.WINDOW", WINDOW)
    outpost = sqlite_outpost
    async with outpost.store() as store:
        many = await _backlog(outpost, store, "many", endpoints=2 * WINDOW - 1, events=2)
        await outpost.change("deliveries", 1, tenant=b"\x00")
        served = [one.endpoint_row for _ in range(2) for one in await claim(store)]
        assert sorted(served) == [one.row for one in many]
        assert (await store.claim(100)).limited


async def test_endpoints_are_joined_by_their_numbers_whatever_the_statistics_say(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    for n in range(20):
        await outpost.endpoint(tenant=f"t{n}")
    window = Window(outpost.tables)
    with closing(sqlite3.connect(outpost.database.url.file or "")) as connection:
        connection.execute("ANALYZE")
        for statement, given in ((window._scan, (0, "", -1)), (window._others_scan, (0, "{}", 2))):
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given))
            assert "SEARCH e USING INTEGER PRIMARY KEY" in plan


def _left(kept: OtherTenants, tenants: Sequence[str], last: Sequence[int | None]) -> dict[str, int]:
    kept.looked_at(tenants, last)
    return kept.left


def test_where_a_tenant_was_left_is_kept_until_its_last_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_tenants, "_KEPT", 3)
    kept = OtherTenants()
    assert _left(kept, ["a", "b", "c"], [1, None, 3]) == {"a": 1, "c": 3}
    assert _left(kept, ["c", "a"], [None, 2]) == {"a": 2}
    assert _left(kept, ["d", "e", "f"], [4, 5, 6]) == {"d": 4, "e": 5, "f": 6}
    kept.looked_at(None, ())
    assert not kept.left


def test_the_next_look_begins_behind_the_last_tenant_unless_there_were_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(other_tenants, "OTHERS", OTHERS)
    kept = OtherTenants()
    kept.looked_at(["a", "b", "c", "d"], [None] * OTHERS)
    assert kept.behind == "d"
    kept.looked_at(None, ())
    assert kept.behind == "d"
    kept.looked_at(["x"], [None])
    assert kept.behind == ""
