"""Straight to the sender: what is published here is claimed by the transaction that stores it, where that costs nobody.

It is the ordinary fan-out and the ordinary claim, so order, caps, lanes, pauses and the lease are theirs. Whatever is
in the way, the events are in the queue like any others.
"""

from collections.abc import Mapping

from dispatcher.engine.claiming import Claiming
from dispatcher.engine.fanning import Fanning
from dispatcher.engine.pulse import Pulse
from dispatcher.store.hot import ClaimedBatch
from dispatcher.store.ingest import Ingested, Straight

#: The most events that go straight in one transaction: beyond, publishers would wait for each other's deliveries.
EVENTS = 20
#: The most deliveries that it claims.
DELIVERIES = 50
#: How long a publisher waits for the claim that is under way, in seconds.
CLAIM_S = 0.02


class StraightWay:
    """From the committer of a process to its attempts."""

    def __init__(self, fanning: Fanning, claiming: Claiming, queued: Pulse) -> None:
        self._fanning = fanning
        self._claiming = claiming
        self._queued = queued
        #: Whether it is this one's turn to fan out.
        self._fans_out = False

    async def lend(self, events: int) -> Straight | None:
        """What may be claimed along with so many events; null where others should see them, or they must wait."""
        if events > EVENTS or not await self._fanning.take_turn():
            return None
        self._fans_out = True
        straight: Straight | None = None
        try:
            # What goes through the queue has that loop claim again, just when the next publisher comes.
            await self._claiming.between_claims(CLAIM_S)
            straight = self._claiming.lend(DELIVERIES)
        finally:
            if straight is None:
                self._end_turn()
        return straight

    def committed(self, done: Ingested) -> None:
        """Begins what was claimed, and has the loops see to the rest."""
        self._end_turn()
        fanned, claimed = done.fanned_out, done.claimed or ClaimedBatch(())
        # Others may have been claimed in their place.
        ours = {event_id for answer in done.answers if isinstance(answer, Mapping) for _, event_id in answer}
        sent = sum(one.event_id in ours for one in claimed.deliveries)
        # What it superseded may have been the head of a lane, which goes on.
        left = fanned is not None and (fanned.deliveries > sent or fanned.superseded > 0)
        self._claiming.returned(claimed, left=left or bool(claimed.homeless))
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
