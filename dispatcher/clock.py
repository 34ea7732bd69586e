"""Time, as an object: wall time for what is stored and signed, monotonic time for what is measured.

`literal_now` is what statements take as *now*: `None` lets a shared database use its own clock, so that
hosts need not agree; a value is taken as it is (SQLite, whose only clock is this host's, and tests).
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the engine reads time from."""

    def now(self) -> datetime:
        """Wall time, aware UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def literal_now(self) -> datetime | None:
        """What statements on a shared database take as now; `None` = the database's own clock."""


class SystemClock:
    """The clock of production."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def literal_now(self) -> datetime | None:
        return None


def rfc3339(moment: datetime) -> str:
    """`2026-01-02T03:04:05.678901Z`: RFC 3339 in UTC with `Z`, microseconds only where there are some."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """The aware UTC moment that `text` names. Raises `ValueError` for a text without an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone: write it like 2026-01-02T03:04:05Z")
    return moment.astimezone(UTC)
