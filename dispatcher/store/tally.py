"""What a batch of outcomes says about endpoints and destinations, and from when on they are left alone for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError
from dispatcher.store.hot import Finished

#: Back-off of an endpoint starts after so many overload failures in a row, over at least two deliveries; that of a
#: destination after so many connections in a row that did not come about.
BACKOFF_AFTER = 10
#: Its first pause and its longest, in seconds; each probe that fails after it doubles it. What fails during a pause
#: was in flight when it began, and does not.
BACKOFF_FIRST_S = 5.0
BACKOFF_LONGEST_S = 300.0
#: An endpoint is disabled as `failing` after so many failures in a row and so long without a success.
FAILING_AFTER = 20
FAILING_AFTER_S = 5 * 86400.0
#: An overload takes one from what an endpoint is sent at once, so many successes give one back: an endpoint that says
#: when it is too much is sent about as much as it takes, and about one in so many attempts fails.
SUCCESSES_FOR_ONE = 25
#: How long it is left alone where even one at once is too much, though others went well, in seconds.
BREATH_S = 1.0
#: A success within so many seconds before says that it works, and has too much only.
RECENTLY_S = 5.0


@dataclass(slots=True)
class TargetTally:
    """What a batch of outcomes says about one endpoint or destination, in the order in which they came."""

    succeeded: bool = False
    #: Failures after the last success of the batch.
    failures: int = 0
    backoffs: int = 0
    backoff_delivery: int | None = None
    backoff_several: bool = False
    pause_s: float | None = None
    successes: int = 0
    #: Answers that say "too much", successes after them or not.
    overloads: int = 0

    @property
    def untold(self) -> int:
        """Its successes, where they were not set off against overloads."""
        return 0 if self.overloads else self.successes

    def well(self) -> None:
        """It did what it should."""
        self.succeeded = True
        self.successes += 1
        self.failures = self.backoffs = 0
        self.backoff_delivery, self.backoff_several = None, False

    def failed(self, delivery_row: int, *, backs_off: bool) -> None:
        """It did not; `backs_off`: and should be left alone if it goes on so."""
        self.failures += 1
        if backs_off:
            self.backoffs += 1
            if self.backoff_delivery not in (None, delivery_row):
                self.backoff_several = True
            self.backoff_delivery = delivery_row


@dataclass(slots=True)
class Tally:
    """`TargetTally` by endpoint and by destination, folded from a batch of outcomes."""

    endpoints: dict[int, TargetTally] = field(default_factory=dict)
    #: Only those that have something new to be told of.
    destinations: dict[int, TargetTally] = field(default_factory=dict)
    #: Destinations that answered 2xx, of those that had not been verified or had failed.
    verified: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, batch: Sequence[Finished]) -> "Tally":
        """Folds a batch. Interruptions and faults of ours say nothing about anybody."""
        tally = cls()
        endpoints = tally.endpoints
        for finished in batch:
            if finished.error in (AttemptError.INTERRUPTED, AttemptError.INTERNAL):
                continue
            if finished.destination_row and (finished.watched or finished.error is not None):
                tally._note_destination(finished)
            entry = endpoints.get(finished.endpoint_row)
            if entry is None:
                entry = endpoints[finished.endpoint_row] = TargetTally()
            if finished.pause_endpoint_s:
                entry.pause_s = max(entry.pause_s or 0.0, finished.pause_endpoint_s)
            if finished.outcome is Outcome.DELIVERED:
                entry.well()
            else:
                entry.failed(finished.delivery_row, backs_off=finished.backs_off)
                # Where nobody listens nothing is said about how much is too much.
                entry.overloads += finished.backs_off and not finished.unreached
        return tally

    def _note_destination(self, finished: Finished) -> None:
        row = finished.destination_row
        if finished.unreached:
            self.destinations.setdefault(row, TargetTally()).failed(finished.delivery_row, backs_off=True)
        elif finished.reached and (finished.watched or row in self.destinations):
            # Any answer is as good as another, and so is silence: one path's errors must not stop its neighbours.
            self.destinations.setdefault(row, TargetTally()).well()
            if finished.outcome is Outcome.DELIVERED:
                self.verified.add(row)
