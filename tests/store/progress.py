"""Progress in tests of the hot store: types of each kind, and what became of every delivery."""

from dispatcher.states import DeliveryState, Reason
from tests.outpost import Outpost

P, DONE, STEP = "job.progress", "job.completed", "job.step"


async def states(outpost: Outpost) -> list[tuple[str, int | None]]:
    """State and superseding event's row of each delivery, by event; an event's row is its place from 1."""
    rows = sorted(await outpost.deliveries(), key=lambda row: (row.event_row, row.row_id))
    for row in rows:
        assert (row.state == DeliveryState.SUPERSEDED) == (row.superseded_by is not None)
        assert (row.reason == Reason.SUPERSEDED) == (row.superseded_by is not None)
    return [(row.state, row.superseded_by) for row in rows]
