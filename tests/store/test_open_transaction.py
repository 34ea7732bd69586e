"""Beside a transaction that is left open: what is dead before what lives is not read, and nothing is lost by it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.rules.verdict import Outcome
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres import fan_out, marks
from dispatcher.store.postgres.straight import GoingStraight
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.reads import rows_read
from tests.store.steps import claim, verified

DEAD = 5_000


@asynccontextmanager
async def _open_transaction(outpost: Outpost) -> AsyncIterator[None]:
    async with outpost.database.engine.connect() as connection:
        await connection.execute(text("SELECT pg_current_xact_id()"))
        yield
        await connection.rollback()


async def _leave_dead(outpost: Outpost, endpoint_row: int, tenant: str = "default") -> None:
    """Deliveries that were sent, and events that were fanned out, all of them while the transaction was open."""
    old = {"many": DEAD, "endpoint": endpoint_row, "tenant": tenant, "old": outpost.clock.now() - timedelta(hours=1)}
    for statement in (
        # Statistics that come in the midst of it would have small tables read as a whole.
        "ALTER TABLE deliveries SET (autovacuum_enabled = off)",
        "ALTER TABLE fanout_queue SET (autovacuum_enabled = off)",
        """INSERT INTO deliveries (event_row, endpoint_row, tenant)
           SELECT -n, :endpoint, :tenant FROM generate_series(1, :many) AS n""",
        "UPDATE deliveries SET state = 'sending', updated_at = :old",
        "UPDATE deliveries SET state = 'delivered'",
        "INSERT INTO fanout_queue (tenant, event_row) SELECT :tenant, -n FROM generate_series(1, :many) AS n",
        "DELETE FROM fanout_queue",
    ):
        async with outpost.database.begin() as connection:
            parameters = {name: value for name, value in old.items() if f":{name}" in statement}
            await connection.execute(text(statement), parameters)


async def _read(outpost: Outpost, store: HotStore) -> dict[str, int]:
    """How many entries of the hot indexes were read so far."""
    read = await rows_read(outpost, store)
    return {index: read[index] for index in ("ix_deliveries_claim", "ix_deliveries_sending", "pk_fanout_queue")}


async def test_what_is_dead_is_read_by_looks_in_full_only(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    monkeypatch.setattr(fan_out, "LATE_S", 0.0)
    endpoint = await outpost.endpoint()
    async with outpost.store() as store, _open_transaction(outpost):
        await _leave_dead(outpost, endpoint.row)
        reads = []
        for _ in range(4):
            before = await _read(outpost, store)
            await outpost.publish("a", "b", "c")
            assert (await store.fan_out(100)).events == 3
            claimed = (await store.claim(100)).deliveries
            assert len(claimed) == 3
            await store.record([finished(one, at=clock.now()) for one in claimed])
            assert not await store.orphans(100)
            reads.append({name: read - before[name] for name, read in (await _read(outpost, store)).items()})
    assert all(read >= DEAD for read in reads[0].values()), reads
    assert all(read < 100 for read in reads[-1].values()), reads


async def test_what_is_born_in_flight_counts_for_what_was_seen_off(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    monkeypatch.setattr(marks, "FEW", 3)
    await verified(outpost)
    async with outpost.store() as store:
        straight: GoingStraight = store._straight  # type: ignore[attr-defined]
        looks = (straight._fan_out._looks, straight._claim.looks)
        for each in looks:
            each.took(1.0)
        in_full = []
        for _ in range(4):
            in_full.append([each.in_full() for each in looks])
            await outpost.publish()
            assert (await store.fan_out(10, Straight(50, ()))).claimed is not None
    assert in_full == [[True, True]] * 3 + [[False, False]]


async def test_recording_looks_for_its_rows_by_their_numbers(postgres_url: str) -> None:
    outpost = Outpost(postgres_url, SystemClock())
    await outpost.endpoint(max_in_flight=100)
    async with outpost.store() as store:
        await outpost.publish(*["a"] * 60)
        await store.fan_out(100)
        claimed = await claim(store)
        assert len(claimed) == 60
        async with outpost.database.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO deliveries (event_row, endpoint_row, tenant, state)"
                    " SELECT -n, 1, 'default', 'delivered' FROM generate_series(1, :many) AS n"
                ),
                {"many": DEAD},
            )
        async with outpost.database.engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.execute(text("ANALYZE"))
        before = await _read(outpost, store)
        # From its sixth execution on a statement may have one plan for all.
        for start in range(0, 60, 5):
            batch = [finished(one, at=outpost.clock.now()) for one in claimed[start : start + 5]]
            assert not (await store.record(batch)).lost
        assert (await _read(outpost, store))["ix_deliveries_sending"] == before["ix_deliveries_sending"]
    await outpost.close()


async def test_looks_from_marks_go_by_tenant(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    monkeypatch.setattr("dispatcher.store.postgres.window.WINDOW", 3)
    # The later in the order of tenants, the earlier in that of endpoints.
    tenants = ["h", "g", "F", "e", "d", "C", "b", "a"]
    rows = [(await outpost.endpoint(tenant=tenant, row_id=n + 1)).row for n, tenant in enumerate(tenants)]
    async with outpost.store() as store, _open_transaction(outpost):
        for _ in range(3):
            for tenant in tenants:
                await outpost.publish(tenant=tenant)
            await store.fan_out(100)
            served = []
            for _ in range(len(tenants)):
                claimed = (await store.claim(100)).deliveries
                await store.record([finished(one, at=clock.now()) for one in claimed])
                served += [one.endpoint_row for one in claimed]
            assert sorted(served) == rows


async def test_looks_from_marks_do_not_look_at_other_tenants(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    monkeypatch.setattr("dispatcher.store.postgres.window.WINDOW", 5)
    dead = await outpost.endpoint(tenant="a")
    for _ in range(40):
        await outpost.endpoint(tenant="many", max_in_flight=1)
    async with outpost.store() as store, _open_transaction(outpost):
        await _leave_dead(outpost, dead.row, tenant="a")
        await outpost.publish("x", tenant="many")
        await store.fan_out(100)
        reads = []
        for _ in range(5):
            await outpost.publish("x", tenant="a")
            await store.fan_out(100)
            before = await _read(outpost, store)
            claimed = (await store.claim(100)).deliveries
            reads.append((await _read(outpost, store))["ix_deliveries_claim"] - before["ix_deliveries_claim"])
            await store.record([finished(one, at=clock.now()) for one in claimed])
        # Behind the first window there are no marks; what is dead is before it.
        assert reads[0] >= DEAD
        assert all(read < 200 for read in reads[1:]), reads


async def _all_claimed(outpost: Outpost, store: HotStore, **fields: object) -> Sequence[Claimed]:
    """Four events, all of them claimed, and then one more, so that the mark is behind the four."""
    await outpost.endpoint(**fields)  # type: ignore[arg-type]
    await outpost.publish("a", "b", "c", "d")
    await store.fan_out(100)
    claimed = await claim(store)
    assert len(claimed) == 4
    await _mark_behind(outpost, store)
    return claimed


async def _mark_behind(outpost: Outpost, store: HotStore) -> None:
    """The next look begins behind all that there is."""
    await outpost.publish("later")
    await store.fan_out(100)
    assert [one.event_type for one in await claim(store)] == ["later"]


@pytest.mark.usefixtures("marked_looks")
async def test_what_this_process_gives_back_is_claimed_at_once(outpost: Outpost, store: HotStore) -> None:
    first, *_ = await _all_claimed(outpost, store)
    await store.release([first])
    assert [one.delivery_row for one in await claim(store)] == [first.delivery_row]


@pytest.mark.usefixtures("marked_looks")
async def test_what_was_interrupted_is_claimed_at_once(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    _, second, *_ = await _all_claimed(outpost, store)
    await store.record([finished(second, Outcome.INTERRUPTED, at=clock.now())])
    assert [one.delivery_row for one in await claim(store)] == [second.delivery_row]


@pytest.mark.usefixtures("marked_looks")
async def test_a_retry_is_claimed_when_it_was_made_due(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    first, second, *_ = await _all_claimed(outpost, store)
    await store.make_due(100)
    await store.record([finished(one, Outcome.RETRY, at=clock.now(), delay_s=5.0) for one in (first, second)])
    assert not await claim(store)
    clock.advance(5)
    assert (await store.make_due(100))[0] == 2
    assert [one.delivery_row for one in await claim(store)] == [first.delivery_row, second.delivery_row]


@pytest.mark.usefixtures("marked_looks")
@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.DEAD])
async def test_a_lane_goes_on_below_what_others_have_come_to(
    outpost: Outpost, store: HotStore, clock: FakeClock, outcome: Outcome
) -> None:
    await outpost.endpoint()
    for job in ("one", "two"):
        await outpost.publish("a", "b", job_id=job)
    await outpost.publish("last", job_id="three")
    await store.fan_out(100)
    heads = await claim(store)
    assert [one.event_type for one in heads] == ["a", "a", "last"]
    await _mark_behind(outpost, store)
    for head in heads[:2]:
        await store.record([finished(head, outcome, at=clock.now())])
    assert [(one.job_id, one.event_type) for one in await claim(store)] == [("one", "b"), ("two", "b")]


@pytest.mark.usefixtures("marked_looks")
async def test_a_lane_that_passes_its_head_goes_on_below_the_mark(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await outpost.publish("a", "b", job_id="one")
    await outpost.publish("last", job_id="two")
    await store.fan_out(100)
    head, _ = await claim(store)
    await _mark_behind(outpost, store)
    await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=3600.0, hold_s=10.0)])
    clock.advance(10)
    assert await store.pass_lanes(10) == 1
    assert [one.event_type for one in await claim(store)] == ["b"]


async def test_what_others_put_back_waits_for_the_next_look_in_full(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    async with outpost.store() as store:
        claimed = await _all_claimed(outpost, store)
        await store.record([finished(one, at=clock.now()) for one in claimed])
        first, *_ = await outpost.deliveries()
        await outpost.put_back(first)
        # As another process gives it back: no redelivery.
        async with outpost.database.begin() as connection:
            await connection.execute(text("UPDATE deliveries SET fresh = true WHERE state = 'pending'"))
        assert not await claim(store)
        monkeypatch.setattr(marks, "monotonic", lambda: float("inf"))
        assert [one.delivery_row for one in await claim(store)] == [first.row_id]


async def test_an_event_that_was_committed_long_after_later_ones_waits_for_the_next_look_in_full(
    postgres_outpost: Outpost, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    monkeypatch.setattr(fan_out, "LATE_S", 0.0)
    async with outpost.store() as store, outpost.database.engine.connect() as slow_producer:
        await slow_producer.execute(text("INSERT INTO events (type, data) VALUES ('late', '{}')"))
        for _ in range(3):
            await outpost.publish()
            assert (await store.fan_out(100)).events == 1
        await slow_producer.commit()
        assert not (await store.fan_out(100)).events
        monkeypatch.setattr(marks, "monotonic", lambda: float("inf"))
        assert (await store.fan_out(100)).events == 1


async def test_two_processes_that_look_from_marks_keep_the_cap_of_an_endpoint(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(max_in_flight=5, ordered=False)
    await outpost.publish(*["a"] * 60)
    async with outpost.store(name="one") as one, outpost.store(name="two") as two:
        await one.fan_out(100)
        in_flight: dict[HotStore, list[Claimed]] = {one: [], two: []}
        sent = 0
        while sent < 60:
            for store, batch in zip((one, two), await asyncio.gather(one.claim(3), two.claim(3)), strict=True):
                in_flight[store] += batch.deliveries
            assert sum(map(len, in_flight.values())) <= 5
            for store, flying in in_flight.items():
                sent += len(flying[:2])
                await store.record([finished(each, at=clock.now()) for each in flying[:2]])
                del flying[:2]
            clock.advance(0.5)
