"""When to try again: a schedule of delays with jitter, and what a receiver asks for with Retry-After."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_chain, wait_fixed, wait_random

from dispatcher.errors import InvalidField
from dispatcher.units import parse_duration_s

MOST_RETRIES = 50

_LONGEST_S = 3650 * 86400.0
_DELAY_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_HTTP_DATES = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        rf"[a-z]{{3}}, (?P<day>\d\d) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_TIME} (GMT|UTC)",
        rf"[a-z]{{6,9}}, (?P<day>\d\d)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {_TIME} (GMT|UTC)",
        rf"[a-z]{{3}} (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_RETRYING = Retrying()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """An endpoint's retry schedule: the delay before each retry, in seconds, and the share it varies by, both ways."""

    schedule: tuple[float, ...]
    jitter: float

    def delay_s(self, failures: int) -> float | None:
        """Seconds to wait after the `failures`-th failure of a round (from 1); None when the schedule is used up."""
        if failures > len(self.schedule):
            return None
        # tenacity counts attempts in memory; the count here is the stored one, so a retry survives a restart.
        state = RetryCallState(_RETRYING, None, (), {})
        state.attempt_number = failures
        return max(0.0, _wait(self.schedule, self.jitter)(state))


@lru_cache(maxsize=4096)
def _wait(schedule: tuple[float, ...], jitter: float) -> wait_base:
    return wait_chain(*(wait_fixed(delay) + wait_random(-delay * jitter, delay * jitter) for delay in schedule))


def parse_schedule(text: str) -> tuple[float, ...]:
    """The delays of `5s,5m,30m` in seconds; an empty text is one attempt. Raises `InvalidField`."""
    if not text.strip():
        return ()
    parts = text.split(",")
    if len(parts) > MOST_RETRIES:
        raise InvalidField("retry_schedule", f"has {len(parts)} delays; {MOST_RETRIES} are the most")
    try:
        return tuple(parse_duration_s(part) for part in parts)
    except ValueError as error:
        raise InvalidField("retry_schedule", f"{error}; a schedule is written like 5s,5m,30m") from None


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for (a number or an HTTP date); 0 for the past, None for garbage."""
    if value is None:
        return None
    text = value.strip()
    if _DELAY_SECONDS.fullmatch(text):
        return min(max(0.0, float(text)), _LONGEST_S)
    moment = _http_date(text, now)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _http_date(text: str, now: datetime) -> datetime | None:
    found = next((match for form in _HTTP_DATES if (match := form.fullmatch(text))), None)
    if found is None:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        # RFC 9110: a year that seems more than 50 years ahead is the past one with the same digits.
        latest = now.year + 50
        year = latest - (latest - year) % 100
    try:
        return datetime(
            year,
            _MONTHS[found["month"].lower()],
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            min(int(found["second"]), 59),
            tzinfo=UTC,
        )
    except (KeyError, ValueError):
        return None
