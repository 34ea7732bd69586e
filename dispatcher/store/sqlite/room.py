"""What the limits leave an endpoint and a destination in one claim on SQLite."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dispatcher.rules.bodies import frozen_profile
from dispatcher.store.hot import CLOCK_SLACK_S, Limits


class Open:
    """An endpoint of the window that may be sent to, with what the limits leave it."""

    def __init__(self, found: Sequence[Any], in_flight: int, limits: Limits, most: int, source: str, now: int) -> None:
        (
            self.row,
            _,
            _,
            self.version,
            profile,
            self.destination,
            self.tenant,
            *allowed,
            rate,
            tokens,
            tokens_at,
            home,
        ) = found
        self.in_flight = in_flight
        self.profile = frozen_profile(profile, source)
        cap, ramp, takes = allowed
        self.tokens = _tokens(rate, tokens, tokens_at, now)
        self.room = min(
            _least(limits.per_endpoint if cap is None else cap, ramp, takes) - in_flight,
            _least(most, self.tokens),
        )
        #: Its destination was unverified or had been failing; a guest is a callback at one that is unverified.
        self.watched = home is not None
        self.guest: bool
        self.bucket: list[Any]
        self.guest, slow_start, *self.bucket = home or (False, None)
        self.most_at_destination = _least(limits.per_destination, slow_start)


class Guests:
    """Callbacks at destinations that nobody has verified: what the limits leave them, in one claim."""

    def __init__(self, limits: Limits, now: int) -> None:
        self._limits = limits
        self._now = now
        self._in_flight: Counter[int] = Counter()
        self._tokens: dict[int, float] = {}
        self._taken: Counter[int] = Counter()

    def present(self, destination: int, count: int) -> None:
        """So many attempts of callbacks are in flight there."""
        self._in_flight[destination] += count

    def room(self, guest: Open) -> int:
        """How many may begin there."""
        there = guest.destination
        if there not in self._tokens:
            tokens, tokens_at = guest.bucket
            self._tokens[there] = _available(self._limits.unverified_rate, tokens, tokens_at, self._now)
        most = min(self._limits.per_unverified - self._in_flight[there], math.floor(self._tokens[there]))
        return most - self._taken[there]

    def take(self, guest: Open) -> bool:
        """Whether one more may begin there; then it counts."""
        if self.room(guest) <= 0:
            return False
        self._taken[guest.destination] += 1
        return True

    def spent(self, begun: Iterable[Open]) -> Iterable[tuple[int, float]]:
        """Each destination where some begin, and the tokens that they leave."""
        return [(there, self._tokens[there] - n) for there, n in Counter(one.destination for one in begun).items()]


def _least(limit: int, *others: float | None) -> int:
    """The least of them, those that are null aside."""
    for other in others:
        if other is not None and other < limit:
            limit = math.floor(other)
    return limit


def _tokens(rate: float | None, tokens: float | None, tokens_at: int | None, now: int) -> float | None:
    """What the rate limit leaves; null: there is none."""
    return None if rate is None else _available(rate, tokens, tokens_at, now)


def _available(rate: float, tokens: float | None, tokens_at: int | None, now: int) -> float:
    """Tokens by now; at most a second's worth (and at least one) is saved up."""
    most = max(rate, 1.0)
    if tokens is None or tokens_at is None:
        return most
    if tokens_at > now + CLOCK_SLACK_S * 1_000_000:
        # The clock was set back: nobody waits until it is again as late as it was.
        return most
    return min(most, tokens + rate * max(0, now - tokens_at) / 1_000_000)
