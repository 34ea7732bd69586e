"""Who presents wrong keys, and how many: what slows down whoever tries one after another."""

from collections import OrderedDict

from dispatcher.clock import Clock
from dispatcher.rules import pace

#: Wrong keys of one address that are answered at once, enough for who tries each route with one, and the seconds after
#: which it may present another.
ADDRESS_BURST = 100
ADDRESS_EVERY_S = 3.0
#: The same for all addresses together.
OVERALL_BURST = 1000
OVERALL_EVERY_S = 0.1
#: The most addresses that are remembered, those that were wrong last.
MOST_ADDRESSES = 10_000


class WrongKeys:
    """Counts wrong keys, by address and overall, in memory of a fixed size."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_until: OrderedDict[str, float] = OrderedDict()
        self._overall_until = 0.0

    def wait_s(self, address: str) -> float:
        """Seconds after which the address may present a wrong key again; 0: now."""
        now = self._clock.monotonic()
        own = pace.wait_s(self._ahead_until.get(address, 0.0), now, ADDRESS_EVERY_S, ADDRESS_BURST * ADDRESS_EVERY_S)
        overall = pace.wait_s(self._overall_until, now, OVERALL_EVERY_S, OVERALL_BURST * OVERALL_EVERY_S)
        return max(own, overall)

    def count(self, address: str) -> float:
        """A wrong key came from there; 0, or the seconds by which it came too early.

        What comes too early is not counted: who goes on waits no longer than who stops.
        """
        early_s = self.wait_s(address)
        if early_s:
            return early_s
        now = self._clock.monotonic()
        self._overall_until = pace.spent(self._overall_until, now, OVERALL_EVERY_S)
        self._ahead_until[address] = pace.spent(self._ahead_until.get(address, 0.0), now, ADDRESS_EVERY_S)
        self._ahead_until.move_to_end(address)
        while len(self._ahead_until) > MOST_ADDRESSES:
            self._ahead_until.popitem(last=False)
        return 0.0
