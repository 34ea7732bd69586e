"""A run of a seed: a scene, some minutes of bad weather, and what must come of it when the weather is good again."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from dispatcher.rules.new_events import NewEvent
from dispatcher.states import EventKind
from dispatcher.store.hot import LONGER_THAN_ANY_ATTEMPT_S
from tests.simulation.ledger import Ledger
from tests.simulation.loop import World
from tests.simulation.model import Model
from tests.simulation.process import LEASE_S, MAX_IN_FLIGHT, SCHEDULE, STOP_S, TICK_S, Process, settings
from tests.simulation.rows import LIVE, Endpoint, Event
from tests.simulation.surroundings import quiet, seeded
from tests.simulation.weather import Weather

#: How long producers and faults go on, in seconds.
BAD_WEATHER_S = 60.0
#: What everything that was left may take then: a claim whose answer was lost, and the schedule behind it.
PATIENCE_S = LONGER_THAN_ANY_ATTEMPT_S + 4 * LEASE_S + sum(SCHEDULE) + 60.0
#: What a healthy dispatcher may take for what is due, beyond what the receiver takes.
PROMPT_S = 1.5

KINDS = (
    ("job.step", EventKind.STATE),
    ("job.step", EventKind.STATE),
    ("job.progress", EventKind.PROGRESS),
    ("job.progress", EventKind.PROGRESS),
    ("job.log", EventKind.PROGRESS),
    ("job.completed", EventKind.TERMINAL),
)


class Run:
    """One seed's run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.world = World(rng)
        self.weather = Weather(rng)
        self._clock_offset_s = 0.0
        self._longest_jump_s = 0.0
        crew = rng.choice((1, 1, 2, 2, 3))
        self.model = Model(
            lambda: self.world.time + self._clock_offset_s,
            per_destination=4,
            exclusive=crew == 1 and rng.random() < 0.5,
        )
        for row in range(1, rng.choice((2, 2, 3)) + 1):
            self.model.endpoints[row] = Endpoint(
                row,
                ordered=row == 1 or rng.random() < 0.4,
                max_in_flight=3,
                hold_s=rng.choice((3.0, 20.0)),
                destination=row % 2,
            )
        self.ledger = Ledger(self.world, self.model, MAX_IN_FLIGHT, SCHEDULE)
        self.crew: list[Process] = []
        self._lives = self._published = 0
        self._hired = crew
        self.weather.contended = 0.2 if crew > 1 else 0.0

    def broke(self, promise: str) -> bool:
        """Whether this promise was broken, by its name in the ledger."""
        return any(broken.partition(":")[0] == promise for broken in self.world.broken)

    # What happens to the scene.

    def start_process(self) -> Process:
        """One process more."""
        self._lives += 1
        process = Process(
            f"p{self._lives}",
            self.world,
            self.model,
            self.ledger,
            self.weather,
            self.rng.choice((0.0, 0.0, -90.0, 90.0)),
        )
        self.crew = [one for one in self.crew if one.up] + [process]
        return process

    def commit(self, event_type: str, kind: EventKind, job_id: str | None) -> Event:
        """A producer's commit; whoever listens is told, or that is lost."""
        event = self.model.commit(event_type, kind, job_id, f'{{"n":{len(self.model.events)}}}')
        self.world.note("producer", "commit", f"{event.id} {event.kind} {job_id}")
        self._tell()
        return event

    def _tell(self) -> None:
        for process in self.crew:
            if self.rng.random() >= self.weather.failing:
                self.world.after(0.002 * self.rng.random(), lambda told=process: told.loop.call_soon(told.wake))  # type: ignore[misc]

    def produce(self, jobs: int) -> None:
        """Some events, of one of so many jobs or of none."""
        rng = self.rng
        for _ in range(rng.randint(1, 3)):
            job = rng.randrange(jobs + 1)
            self._publish(*rng.choice(KINDS), f"job_{job}" if job else None)

    def _publish(self, event_type: str, kind: EventKind, job_id: str | None) -> None:
        """By a producer's own transaction, or through a process, perhaps several at once."""
        serving = [process for process in self.crew if process.started and process.stopping_at is None and process.up]
        if not serving or self.rng.random() < 0.5:
            self.commit(event_type, kind, job_id)
        else:
            self._send(self.rng.choice(serving), event_type, kind, job_id)

    def _send(self, process: Process, event_type: str, kind: EventKind, job_id: str | None) -> str:
        """A request to publish."""
        self._published += 1
        event = NewEvent(
            f"api_{self._published:04}",
            "default",
            event_type,
            f'{{"n":{self._published}}}',
            job_id,
            kind,
            None,
            None,
            None,
        )
        process.publish(event)
        return event.id

    def redeliver(self) -> None:
        """An operator asks for something again."""
        settled = [d for d in self.model.deliveries.values() if d.state not in LIVE]
        if settled:
            delivery = self.rng.choice(settled)
            if self.model.put_back(delivery):
                self.ledger.rounds[delivery.row] = len(delivery.log)
                self.world.note("operator", "redeliver", delivery.event.id)

    def change_endpoint(self) -> None:
        """An endpoint is changed: its policy must be read anew."""
        endpoint = self.rng.choice(list(self.model.endpoints.values()))
        endpoint.version += 1
        endpoint.paused = self.rng.random() < 0.3
        self.world.note("operator", "change", f"{endpoint.row}: {'paused' if endpoint.paused else 'enabled'}")

    def set_clock(self) -> None:
        """The database's clock is set, forward or back."""
        jump_s = self.rng.choice((-3600.0, -20.0, 20.0, 3600.0))
        self._clock_offset_s += jump_s
        self._longest_jump_s = max(self._longest_jump_s, -self._clock_offset_s, abs(jump_s))
        self.ledger.excuse()
        for process in self.crew:
            process.troubled_at = self.world.time + LEASE_S
        self.world.note("clock", "is set", jump_s)

    def hurt(self) -> None:
        """A signal for one of the crew, now or in the middle of what it does next."""
        running = [process for process in self.crew if process.up and not process.loop.paused]
        if not running:
            return
        rng, process = self.rng, self.rng.choice(running)
        match rng.randrange(4):
            case 0:
                process.terminate()
            case 1:
                then = self._pausing(process)
                process.loop.after(rng.randrange(12), then)
            case _:
                process.loop.after(rng.randrange(12), process.crash)

    def _pausing(self, process: Process) -> Any:
        def then() -> None:
            process.pause()
            self.world.after(0.1 + 25.0 * self.rng.random() ** 2, process.go_on)

        return then

    def supervise(self) -> None:
        """Who has ended is started again."""
        self.crew = [process for process in self.crew if process.up]
        while len(self.crew) < self._hired:
            self.start_process()

    def outage(self) -> None:
        """Some statements, of all processes or of one, are not answered for a while."""
        begin = self.world.time
        whose = self.rng.choice(["", *(process.name for process in self.crew)])
        for which in self.rng.sample(("", "record", "claim", "heartbeat", "policy", "fan_out"), self.rng.randint(1, 3)):
            self.weather.outages.append((whose, which, begin, begin + 20.0 * self.rng.random()))
            self.world.note("database", "outage", f"of {which or 'all'} for {whose or 'all'}")

    # The phases.

    def play(self) -> None:
        """The whole run; what was wrong is in `world.broken`."""
        with self.surroundings():
            self._bad_weather()
            self.good_weather()

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """What a run needs around it: the engine's chances and its log; and no task of it is left behind."""
        with quiet(self.ledger), seeded(self.seed):
            try:
                yield
            finally:
                self.world.close()

    def good_weather(self) -> None:
        """Nothing fails any more: what is left ends, what is new is prompt, stops are clean, and a crash heals."""
        for phase in (
            self._all_ends,
            self._work_is_prompt,
            self._publishing_is_prompt,
            self._stop_is_clean,
            self._start_is_prompt,
            self._crash_heals,
            self.ledger.check_end,
        ):
            if not self.world.broken:
                phase()

    def _bad_weather(self) -> None:
        rng, world, weather = self.rng, self.world, self.weather
        weather.failing, weather.slow = rng.choice((0.0, 0.0, 0.03, 0.15)), rng.choice((0.0, 0.05, 0.3, 0.5))
        weather.refusing, weather.dawdling = rng.choice((0.0, 0.1, 0.4)), rng.choice((0.0, 0.1, 0.4))
        jobs = rng.randint(1, 4)
        until = BAD_WEATHER_S
        happenings = [(rng.randint(4, 14), lambda: self.produce(jobs)), (rng.choice((0, 0, 2, 6)), self.hurt)]
        happenings.append((rng.choice((0, 0, 2, 4)), self.outage))
        happenings.append((rng.choice((0, 1, 3)), self.change_endpoint))
        happenings.append((rng.choice((0, 0, 2)), self.redeliver))
        happenings.append((rng.random() < 0.1, self.set_clock))
        for count, happening in happenings:
            for _ in range(count):
                world.at(until * rng.random(), happening)
        if rng.random() < 0.1:
            weather.poison.add(f"evt_{rng.randint(1, 5):04}")
        for _ in range(int(until / 3)):
            world.at(until * rng.random(), self.supervise)
        self.supervise()
        world.run(until)

    def _all_ends(self) -> None:
        world = self.world
        self.weather.clear()
        world.note("weather", "clears")
        for process in self.crew:
            process.loop.spare()
            process.go_on()
        for endpoint in self.model.endpoints.values():
            endpoint.paused = False
            if self._longest_jump_s:
                # Else a Retry-After of before the clock went back holds for an hour.
                endpoint.paused_until = self.model.now()
        world.run(world.time + STOP_S, lambda: all(p.started and p.stopping_at is None for p in self.crew if p.up))
        self.supervise()
        world.run(world.time + PATIENCE_S + self._longest_jump_s, self.ledger.settled)
        self.ledger.check_end()
        # What nothing has told them of is found at the latest now, and every pause has ended.
        if not world.broken:
            world.run(world.time + 3 * LEASE_S)

    def _expect(self, what: str, within_s: float, *events: Event) -> None:
        """All of these are delivered to every endpoint by then."""
        rows = {event.row for event in events}

        def done() -> bool:
            queued, live = self.model.queue, self.model.live.values()
            return not any(d.event.row in rows for d in live) and not any(event.row in rows for event in queued)

        if not self.world.run(self.world.time + within_s, done) and not self.world.broken:
            late = [f"{d.event.id} to {d.endpoint.row}" for d in self.model.live.values() if d.event.row in rows]
            self.ledger.fail(what, late or "was not fanned out")

    def _work_is_prompt(self) -> None:
        """More than there is room for, a retry, and a lane whose head is passed."""
        scripted, rows = self.weather.scripted, list(self.model.endpoints)
        loose = [self.commit("probe", EventKind.STATE, None) for _ in range(7)]
        self._expect("work is prompt", PROMPT_S, *loose)
        lane = [self.commit("probe", EventKind.STATE, "probe_1") for _ in range(3)]
        scripted.update({(lane[0].id, row): [500, 200] for row in rows})
        self._expect("retries are prompt", SCHEDULE[0] + PROMPT_S, *lane)
        held = [self.commit("probe", EventKind.STATE, "probe_2") for _ in range(2)]
        scripted.update({(held[0].id, row): [500] for row in rows})
        longest_hold_s = max(endpoint.hold_s or 0.0 for endpoint in self.model.endpoints.values())
        # A head that is tried again just then is passed when that has failed.
        self._expect("a lane passes its head", longest_hold_s + TICK_S + PROMPT_S, held[1])
        self._expect("a head is given up", sum(SCHEDULE) + PROMPT_S, held[0])

    def _publishing_is_prompt(self) -> None:
        """Through each process, more than there is room for, in one transaction and in several."""
        sent = set()
        for _ in range(3):
            for process in self.crew:
                sent |= {self._send(process, "probe", EventKind.STATE, job) for job in (None, None, "probe_4")}
            self.world.run(self.world.time + 0.02 * self.rng.random())

        def done() -> bool:
            stored = {event.id: event for event in self.model.events.values() if event.id in sent}
            waiting = {event.id for event in self.model.queue} | {d.event.id for d in self.model.live.values()}
            return len(stored) == len(sent) and not waiting & sent

        if not self.world.run(self.world.time + 2 * PROMPT_S, done) and not self.world.broken:
            self.ledger.fail("publishing is prompt", [d.event.id for d in self.model.live.values()] or "was not stored")

    def _stop_is_clean(self) -> None:
        """With attempts in flight, of which some outlast the grace, and more that waits."""
        if self.world.broken:
            return
        events = [self.commit("probe", EventKind.STATE, None) for _ in range(8)]
        self.weather.dawdling = 0.5
        self.world.run(self.world.time + 0.03 * self.rng.random())
        for process in self.crew:
            process.terminate()
        if not self.world.run(self.world.time + STOP_S, lambda: not any(process.up for process in self.crew)):
            self.ledger.fail("a stop ends in time", [process.name for process in self.crew if process.up])
        self.weather.dawdling = 0.0
        if not self.world.broken:
            self.supervise()
            self._expect("a start goes on at once", PROMPT_S + TICK_S, *events)

    def _start_is_prompt(self) -> None:
        """What was committed while nobody ran goes out at the start."""
        for process in self.crew:
            process.terminate()
        self.world.run(self.world.time + STOP_S, lambda: not any(process.up for process in self.crew))
        events = [self.commit("probe", EventKind.STATE, "probe_3") for _ in range(3)]
        self.supervise()
        self._expect("a start is prompt", PROMPT_S, *events)

    def _crash_heals(self) -> None:
        """What was in flight at a crash goes out when the lease has ended."""
        events = [self.commit("probe", EventKind.STATE, None) for _ in range(4)]
        self.world.run(self.world.time + 0.05 * self.rng.random())
        for process in self.crew:
            process.crash()
        self.supervise()
        self._expect("a crash heals", LEASE_S + 2 * TICK_S + PROMPT_S, *events)


def play(seed: int) -> Run:
    """Plays a seed."""
    settings()
    run = Run(seed)
    run.play()
    return run
