"""Straight to the sender: what is published here is claimed by the transaction that stores it, where that costs nobody.

It is the ordinary fan-out and the ordinary claim, so order, caps, lanes, pauses and the lease are theirs. Whatever is
in the way, the events are in the queue like any others.
"""

from dispatcher.engine.claiming import STRAIGHT_EVENTS, Claiming
from dispatcher.engine.fanning import Fanning
from dispatcher.engine.pulse import Pulse
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.ingest import Ingested, Straight


class StraightWay:
    """From the committer of a process to its attempts."""

    def __init__(self, fanning: Fanning, claiming: Claiming, queued: Pulse) -> None:
        self._fanning = fanning
        self._claiming = claiming
        self._queued = queued
        #: Whether it is this one's turn to fan out, and to claim.
        self._fans_out = False

    async def lend(self, events: int) -> Straight | None:
        """What may be claimed along with so many events; null where others should see them, or they must wait."""
        if events > STRAIGHT_EVENTS or not await self._fanning.take_turn():
            return None
        self._fans_out = True
        straight: Straight | None = None
        try:
            # What goes through the queue has that loop claim again, just when the next publisher comes.
            straight = await self._claiming.lend_between()
        finally:
            if straight is None:
                self._end_turn()
        return straight

    def committed(self, done: Ingested) -> None:
        """Begins what was claimed, and has the loops see to the rest."""
        fanned = done.fanned_out
        if self._fans_out:
            # Else what is lent just now is the fan-out loop's.
            self._end_turn()
            self._claiming.returned(done.claimed or ClaimedBatch(()), left=fanned is not None and fanned.left)
        if fanned is not None:
            self._fanning.settle(fanned)
        if done.queued or (fanned is not None and fanned.catch_up):
            self._queued.ring()

    def failed(self) -> None:
        """What it may have claimed is looked for."""
        self._end_turn()
        self._claiming.doubt()

    def _end_turn(self) -> None:
        if self._fans_out:
            self._fans_out = False
            self._fanning.end_turn()
