"""Time that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta
from typing import Self


class FakeClock:
    """A `dispatcher.clock.Clock`: statements take its time too, on both databases."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    @classmethod
    def of_today(cls) -> Self:
        """Begins now: the published libraries compare a signature's time with the present."""
        return cls(datetime.now(UTC).replace(microsecond=0))

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def literal_now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass, on the wall and monotonically."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Sets the wall clock forward or back (negative), as an operator or NTP does; no time passes."""
        self._now += timedelta(seconds=seconds)
