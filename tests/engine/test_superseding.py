"""What is superseded is counted, wherever it comes about."""

from dispatcher import metrics
from dispatcher.states import DeliveryState, Reason
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver

P = "job.progress"


def _counted() -> float:
    value = metrics.registry.get_sample_value(
        "dispatcher_deliveries_settled_total", {"state": DeliveryState.SUPERSEDED, "reason": Reason.SUPERSEDED}
    )
    return value or 0.0


async def test_superseded_deliveries_are_counted_as_settled(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    before = _counted()
    await outpost.endpoint(receiver.url("/hook"), ordered=False)
    async with outpost.store(lease_s=10.0) as dead:
        await outpost.publish(P, P, job_id="job_1")
        assert (await dead.fan_out(10)).superseded == 1
        assert len((await dead.claim(10)).deliveries) == 1
        # In flight it is left alone; the dispatcher that takes it back finds it superseded.
        await outpost.publish(P, job_id="job_1")
        assert (await dead.fan_out(10)).superseded == 0
        await dead.retire()
    clock.advance(11)
    await outpost.publish(P, P, P, job_id="job_1")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        receiver.answers("/hook", 500)
        await outpost.publish(P, job_id="job_1")
        await dispatcher.until_idle()
        await outpost.publish("job.completed", job_id="job_1")
        await dispatcher.until_idle()
    states = [row.state for row in await outpost.deliveries()]
    superseded = states.count(DeliveryState.SUPERSEDED)
    # All but the one that the store above superseded, which is no dispatcher and counts nothing.
    assert _counted() - before == superseded - 1
    assert superseded >= 4
