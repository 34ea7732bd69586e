"""`dispatcher demo`: one job's way from a client's request to a redelivered webhook, shown and checked step by step."""

import sys
import time
from io import TextIOWrapper

from rich.console import Console

from dispatcher.demo import agent_api
from dispatcher.demo.processes import ended_by_signals
from dispatcher.demo.receiver import Arrival
from dispatcher.demo.scene import Scene, opened_scene
from dispatcher.demo.screen import CheckFailed, Screen

#: job.started, job.step after each step but the last, job.completed.
_EVENTS_OF_A_JOB = len(agent_api.STEPS) + 1


def run(*, retry_schedule: str = "500ms,1s", patience_s: float = 20.0) -> int:
    """Plays the story on standard output: 0 if everything that it shows happened, 1 at the first thing that did not.

    `patience_s`: how long one thing may take. Its processes and its directory are gone when this returns or raises.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal without ✓ in its character set shows a ? instead.
        sys.stdout.reconfigure(errors="replace")
    screen = Screen(Console(highlight=False))
    began = time.monotonic()
    screen.title("dispatcher demo", "real processes, real HTTP, one SQLite file, all of it temporary")
    try:
        with ended_by_signals(), opened_scene(screen, retry_schedule=retry_schedule, patience_s=patience_s) as scene:
            play(scene)
    except CheckFailed as failure:
        screen.failed(failure)
        return 1
    screen.closing(time.monotonic() - began, agent_api.__file__)
    return 0


def play(scene: Scene) -> None:
    """Every step of the story. Raises `CheckFailed`."""
    job_id = start_a_job(scene)
    events_arrive_signed_and_in_order(scene, job_id)
    a_failure_is_retried(scene)
    dead = a_refusal_makes_a_dead_letter(scene)
    the_dead_letter_is_redelivered(scene, dead)
    a_rollback_sends_nothing(scene)
    everything_adds_up(scene)


def start_a_job(scene: Scene) -> str:
    """Gives the id of the job."""
    screen = scene.screen
    screen.step("A client starts a job and says where it wants to be told")
    status, answer = scene.start_job("first", "first")
    screen.check("the agent API answers 202 at once, while the job runs", expected=202, seen=status)
    return str(answer["job_id"])


def events_arrive_signed_and_in_order(scene: Scene, job_id: str) -> None:
    screen = scene.screen
    screen.step("Its events leave the agent API's own database, and arrive signed and in order")
    arrived = scene.watch("first", _EVENTS_OF_A_JOB)
    screen.check(
        f"{_EVENTS_OF_A_JOB} events of job {job_id}, in the order they were published",
        expected=[(job_id, type, number) for number, type in enumerate(_types(), start=1)],
        seen=[(arrival.job_id, arrival.type, arrival.sequence) for arrival in arrived],
    )
    screen.check("the receiver verified each signature with dispatcher.verify", expected=[], seen=scene.refusals())
    scene.check_soon(
        "the agent API's own table says the same: the job has completed",
        expected="completed",
        look=lambda: scene.job(job_id)["status"],
    )


def a_failure_is_retried(scene: Scene) -> None:
    screen = scene.screen
    screen.step("A second job; the receiver answers 500 once")
    scene.break_receiver("second", "job.started", times=1)
    scene.start_job("second", "second")
    arrived = scene.watch("second", _EVENTS_OF_A_JOB + 1)
    first, second, *others = arrived
    screen.check(
        "the event that failed came again, as attempt 2",
        expected=(500, 2, 200),
        seen=(first.answer, second.attempt, second.answer),
    )
    screen.check("with the same id and the same bytes", expected=_same(first), seen=_same(second))
    screen.check(
        "and the job's later events waited for it",
        expected=list(range(2, _EVENTS_OF_A_JOB + 1)),
        seen=[arrival.sequence for arrival in others],
    )


def a_refusal_makes_a_dead_letter(scene: Scene) -> Arrival:
    """Gives the last attempt."""
    screen = scene.screen
    attempts = 3
    screen.step("A third job; the receiver refuses its last event for good")
    scene.break_receiver("third", "job.completed", times=None)
    scene.start_job("third", "third")
    last = scene.watch("third", _EVENTS_OF_A_JOB - 1 + attempts)[-1]
    screen.check(
        "three attempts were made, the last one failed too", expected=(attempts, 500), seen=(last.attempt, last.answer)
    )
    scene.check_soon(
        "the delivery was given up: there is one dead letter, and it says why",
        expected=[(last.id, "exhausted", attempts, 500, None)],
        look=lambda: [
            (letter["event_id"], letter["reason"], letter["attempts"], letter["last_status"], letter["redelivered_at"])
            for letter in scene.api("/v1/dead-letters")["data"]
        ],
    )
    listed = scene.command("dead-letters", "list")
    screen.check("the operator sees it", expected=True, seen=last.job_id in listed and "exhausted" in listed)
    return last


def the_dead_letter_is_redelivered(scene: Scene, dead: Arrival) -> None:
    screen = scene.screen
    screen.step("The receiver is mended, and the operator redelivers what died")
    scene.mend_receiver()
    shown = len(scene.arrivals(dead.hook))
    scene.command("dead-letters", "redeliver", "--all", "--yes")
    again = scene.watch(dead.hook, shown + 1, after=shown)[-1]
    screen.check("it arrives with the same id and the same bytes", expected=_same(dead), seen=_same(again))
    screen.check(
        "as the next attempt, marked x-delivery-replay: true, and is taken",
        expected=(dead.attempt + 1, True, 200),
        seen=(again.attempt, again.replay, again.answer),
    )


def a_rollback_sends_nothing(scene: Scene) -> None:
    screen = scene.screen
    screen.step("A request that fails halfway: job, callback URL and first event are rolled back")
    before = _counts(scene)
    status, _ = scene.start_job("first", "phantom")
    screen.check("the agent API refuses a request_id that was used before", expected=409, seen=status)
    screen.check("no event and no endpoint is left of it in the database", expected=before, seen=_counts(scene))
    scene.start_job("fourth", "fourth")
    scene.watch("fourth", _EVENTS_OF_A_JOB)
    screen.check(
        "later events have arrived; of the rolled-back one nothing was sent",
        expected=[],
        seen=scene.arrivals("phantom"),
    )


def everything_adds_up(scene: Scene) -> None:
    screen = scene.screen
    screen.step("The sum")
    events = {event["id"] for event in scene.api("/v1/events?limit=200")["data"]}
    taken = [arrival.id for arrival in scene.arrivals() if arrival.answer == 200]
    screen.check(
        f"each of the {len(events)} committed events was taken by the receiver", expected=events, seen=set(taken)
    )
    screen.check("each of them once", expected=len(events), seen=len(taken))
    scene.check_soon(
        "the dispatcher's books agree: every delivery is delivered",
        expected=["delivered"] * len(events),
        look=lambda: [delivery["state"] for delivery in scene.api("/v1/deliveries?limit=200")["data"]],
    )
    failed = [arrival for arrival in scene.arrivals() if arrival.answer != 200]
    screen.note(f"{len(taken) + len(failed)} requests in all, {len(failed)} of them answered 500.")
    screen.check("no signature was ever refused", expected=[], seen=scene.refusals())


def _types() -> list[str]:
    return ["job.started", *["job.step"] * (_EVENTS_OF_A_JOB - 2), "job.completed"]


def _same(arrival: Arrival) -> tuple[str, str]:
    return arrival.id, arrival.body_sha256


def _counts(scene: Scene) -> list[int]:
    return [len(scene.api(f"/v1/{things}?limit=200")["data"]) for things in ("events", "endpoints")]
