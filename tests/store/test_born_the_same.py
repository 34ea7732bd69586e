"""Born in flight on PostgreSQL: over random set-ups it comes to what storing, fanning out and claiming come to."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import insert, text

from dispatcher.outbox.events import new_event
from dispatcher.rules.new_events import NewEvent
from dispatcher.states import Profile
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Group, Straight
from dispatcher.store.postgres.born import Born
from dispatcher.store.postgres.born_of_queue import BornOfQueue
from tests.outpost import Outpost

#: A process that nobody here is.
_OTHER = 99
#: Kinds of what speaks against it; two are nothing.
TROUBLES = 20
_TABLES = ("events", "fanout_queue", "jobs", "job_events", "deliveries", "endpoint_state", "destinations", "endpoints")


@dataclass
class Scene:
    """What stands before events are published, the same each time it is set."""

    endpoints: list[dict[str, Any]] = field(default_factory=list)
    destinations: dict[int, dict[str, Any]] = field(default_factory=dict)
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    queued: int = 0
    lease_ended: bool = False
    held: int | None = None
    ended: list[tuple[int, int]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)


def _scene(seed: int, now: datetime) -> Scene:
    """Plain but for one thing that speaks against it, or two, and other endpoints and events beside."""
    dice, scene = Random(seed), Scene()
    count = dice.randint(1, 3)
    for number in range(count):
        scene.endpoints.append(
            {
                "url": f"http://127.0.0.{dice.choice((1, 1, 2))}:8000/{number}",
                "row_id": 1000 + number,
                "tenant": "default" if number == 0 else dice.choice(("default", "acme")),
                "event_types": dice.choice((("*",), ("job.step",), ("job.*", "job.step"), ("quiet", "job.*"))),
                "profile": dice.choice((Profile.STANDARD, Profile.CLOUDEVENTS)),
                "ordered": dice.random() < 0.5,
            }
        )
    own = scene.endpoints[0]
    for trouble in [seed % TROUBLES, dice.randrange(TROUBLES)][: 2 if dice.random() < 0.3 else 1]:
        one_row = 1000 + dice.randrange(count)
        flight = {"state": "sending", "attempts": 2}
        match trouble:
            case 0:
                own["status"] = dice.choice(("paused", "disabled"))
            case 1:
                own["rate_limit"] = dice.choice((0.5, 5.0))
            case 2:
                own["max_in_flight"] = dice.choice((1, 2))
            case 3:
                own["expires_at"] = now + timedelta(seconds=dice.choice((-5, 5)))
            case 4:
                scene.destinations[1] = {"verified_at": None}
            case 5:
                scene.destinations[1] = dice.choice(({"ramp": 1}, {"failures_in_row": 2}))
            case 6:
                scene.destinations[1] = {"paused_until": now + timedelta(seconds=dice.choice((-5, 5)))}
            case 7:
                scene.states[1000] = {"paused_until": now + timedelta(seconds=dice.choice((-5, 5)))}
            case 8:
                scene.states[1000] = dice.choice(({"ramp": 1}, {"takes": 1.5}, {"failures_in_row": 3}))
            case 9:
                own["max_in_flight"] = 2
                scene.deliveries.append({**flight, "endpoint_row": one_row, "dispatcher_row": dice.choice((1, _OTHER))})
            case 11:
                scene.deliveries.append({**flight, "endpoint_row": one_row, "dispatcher_row": 1})
                scene.ended.append((len(scene.deliveries), dice.choice((1, 2))))
                scene.settings["max_in_flight_per_destination"] = 2
            case 12:
                scene.deliveries.append({"state": "pending", "endpoint_row": 1000, "fresh": dice.random() < 0.5})
            case 13:
                scene.deliveries.append(
                    {"state": "pending", "endpoint_row": one_row, "due_at": now + timedelta(seconds=9)}
                )
            case 14:
                scene.queued = dice.randint(1, 2)
            case 15:
                scene.lease_ended = True
            case 16:
                scene.held = dice.choice((1, 2))
            case 17:
                scene.settings |= dice.choice(
                    ({"max_in_flight_per_destination": 1}, {"max_in_flight_per_endpoint": 1}, {"max_in_flight": 2})
                )
            case 10:
                scene.settings["max_in_flight"] = 20
                scene.deliveries += [{**flight, "endpoint_row": one_row, "dispatcher_row": 1}] * dice.choice((15, 18))
            case _:
                pass
    for _ in range(dice.choice((1, 1, 2, 3))):
        scene.groups.append([_event(dice) for _ in range(dice.choice((1, 1, 1, 2)))])
    scene.groups[0] = [_event(dice, id="own", tenant="default", type="job.step")]
    return scene


def _event(dice: Random, type: str | None = None, **given: Any) -> NewEvent:
    given.setdefault("id", f"e{dice.randrange(50)}")
    given.setdefault("tenant", dice.choice(("default", "default", "acme")))
    if dice.random() < 0.3:
        given["timestamp"] = "2020-01-02T03:04:05.678901+02:00"
        given["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    if dice.random() < 0.05:
        given |= {"job_id": "job_1", "kind": dice.choice((None, "progress", "terminal"))}
    made = new_event(type or dice.choice(("job.step", "quiet")), "{}", max_payload=100, **given)
    return made if dice.random() < 0.2 else replace(made, repeatable=None)


@asynccontextmanager
async def _set(scene: Scene, outpost: Outpost) -> AsyncIterator[HotStore]:
    tables = outpost.tables
    async with outpost.database.begin() as connection:
        names = ", ".join(tables.name(table) for table in (*_TABLES, "dispatchers", "subscriptions"))
        await connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    for endpoint in scene.endpoints:
        await outpost.endpoint(**{key: given for key, given in endpoint.items() if key != "status"})
        if "status" in endpoint:
            await outpost.change("endpoints", endpoint["row_id"], status=endpoint["status"])
    now = outpost.clock.now()
    async with outpost.database.begin() as connection:
        await connection.execute(tables.destinations.update().values(verified_at=now))
        for number, delivery in enumerate(scene.deliveries):
            event_id = (
                await connection.execute(
                    insert(tables.events)
                    .values(
                        id=f"before{number}",
                        type="job.before",
                        data="{}",
                        timestamp=now,
                        created_at=now,
                    )
                    .returning(tables.events.c.row_id)
                )
            ).scalar_one()
            await connection.execute(
                insert(tables.deliveries).values(
                    event_row=event_id, tenant="default", created_at=now, updated_at=now, **delivery
                )
            )
        await connection.execute(tables.fanout_queue.delete())
        for number in range(scene.queued):
            await connection.execute(
                insert(tables.events).values(
                    id=f"queued{number}", type="job.step", data="{}", timestamp=now, created_at=now
                )
            )
    for row, values in scene.destinations.items():
        await outpost.change("destinations", row, **values)
    for row, values in scene.states.items():
        await outpost.change("endpoint_state", row, **values)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(outpost.store(**scene.settings))
        assert store.dispatcher_row == 1
        await outpost.change("dispatchers", 1, leased_until=now + timedelta(seconds=-1 if scene.lease_ended else 100))
        if scene.held is not None:
            other = await stack.enter_async_context(outpost.database.begin())
            await other.execute(
                text(f"SELECT FROM {tables.name('destinations')} WHERE row_id = {scene.held} FOR NO KEY UPDATE")
            )
        yield store


@dataclass
class Came:
    """What publishing or fanning out came to."""

    answers: Sequence[object]
    claimed: dict[object, object]
    tables: dict[str, list[object]]


async def _published(scene: Scene, outpost: Outpost) -> Came:
    async with _set(scene, outpost) as store:
        done = await store.ingest(scene.groups, Straight(20, scene.ended))
        answers = [answer if not isinstance(answer, Exception) else type(answer) for answer in done.answers]
        return await _came(outpost, answers, done.claimed)


async def _fanned_out(scene: Scene, outpost: Outpost) -> Came:
    events, now = outpost.tables.events, outpost.clock.now()
    async with _set(scene, outpost) as store:
        async with outpost.database.begin() as connection:
            for event in {event.key: event for group in scene.groups for event in group}.values():
                await connection.execute(
                    insert(events).values(
                        id=event.id,
                        tenant=event.tenant,
                        type=event.type,
                        data=event.data,
                        job_id=event.job_id,
                        kind=event.kind,
                        timestamp=event.timestamp or now,
                        traceparent=event.traceparent,
                        created_at=now,
                    )
                )
        done = await store.fan_out(20, Straight(20, scene.ended))
        numbers = (done.events, done.deliveries, done.superseded, done.held, done.catch_up, done.contended)
        return await _came(outpost, [*numbers, sorted(done.rows), sorted(done.ids)], done.claimed)


async def _came(outpost: Outpost, answers: Sequence[object], batch: ClaimedBatch | None) -> Came:
    events = {row.row_id: row.id for row in await outpost.rows("events")}
    rows = {row.row_id: (events[row.event_row], row.tenant, row.endpoint_row) for row in await outpost.deliveries()}
    tables: dict[str, list[object]] = {
        table: [*sorted(map(repr, map(tuple, await outpost.rows(table, *_key(table)))))]
        for table in ("fanout_queue", "jobs", "endpoint_state", "destinations")
    }
    tables["events"] = [tuple(row)[1:] for row in await outpost.rows("events", "tenant", "id")]
    # Which row is whose is nobody's business.
    tables["deliveries"] = [*sorted(repr((rows[row.row_id], tuple(row)[2:])) for row in await outpost.deliveries())]
    # Numbers of rows that a statement gave up are never given out again.
    return Came(
        answers,
        {
            rows[one.delivery_row]: [getattr(one, name) for name in one.__struct_fields__ if name != "delivery_row"]
            for one in (batch.deliveries if batch is not None else ())
        },
        tables,
    )


def _key(table: str) -> tuple[str, ...]:
    return {"fanout_queue": ("event_row",), "endpoint_state": ("endpoint_row",)}.get(table, ("row_id",))


@pytest.mark.parametrize("chunk", range(3))
@pytest.mark.parametrize(("way", "happens"), [(Born, _published), (BornOfQueue, _fanned_out)])
async def test_being_born_in_flight_comes_to_the_same_as_the_ordinary_way(
    postgres_outpost: Outpost,
    monkeypatch: pytest.MonkeyPatch,
    born: list[bool],
    way: type[Born | BornOfQueue],
    happens: Callable[[Scene, Outpost], Awaitable[Came]],
    chunk: int,
) -> None:
    outpost = postgres_outpost
    bear = way.run

    async def never(*_: object) -> None:
        return None

    for seed in range(chunk * TROUBLES, (chunk + 1) * TROUBLES):
        scene = _scene(seed, outpost.clock.now())
        ours = await happens(scene, outpost)
        monkeypatch.setattr(way, "run", never)
        ordinary = await happens(scene, outpost)
        monkeypatch.setattr(way, "run", bear)
        assert ours == ordinary, (seed, scene)
    assert min(born.count(True), born.count(False)) >= 3
