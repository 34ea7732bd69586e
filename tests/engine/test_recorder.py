"""The recorder: outcomes in batches, each fenced by its own attempt."""

from dispatcher.engine.attempt import Ended
from dispatcher.engine.recorder import Recorder
from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState, Reason
from dispatcher.store.hot import Recorded
from tests.clock import FakeClock
from tests.outpost import Outpost, finished


async def _nothing(row: int, reason: Reason) -> None:
    raise AssertionError(f"endpoint {row} was to be disabled: {reason}")


async def test_a_late_outcome_beside_that_of_the_next_attempt_overwrites_nothing_and_is_not_logged(
    outpost: Outpost, clock: FakeClock
) -> None:
    results: list[Recorded] = []
    await outpost.endpoint()
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(1)
        [first] = (await store.claim(1)).deliveries
        await store.record([finished(first, Outcome.INTERRUPTED, at=clock.now())])
        [second] = (await store.claim(1)).deliveries
        recorder = Recorder(store, recorded=lambda recorded, room: results.append(recorded), disable=_nothing)
        clock.advance(1)
        recorder.put(Ended(finished(first, Outcome.RETRY, at=clock.now()), None))
        recorder.put(Ended(finished(second, at=clock.now()), None))
        recorder.close()
        await recorder.run()
    row = await outpost.delivery()
    assert (row.state, row.attempts, row.failures, row.due_at) == (DeliveryState.DELIVERED, 2, 0, None)
    assert [(log.number, log.error) for log in await outpost.attempts()] == [(1, "interrupted"), (2, None)]
    assert [result.lost for result in results] == [{first.delivery_row}, frozenset()]
