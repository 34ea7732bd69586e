"""Durations, sizes and ports as people write them: `200ms`, `5m`, `1h30m`, `256KiB`, `80,1024-65535`."""

import re
from collections.abc import Iterable
from decimal import Decimal

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LONGEST_S = 3650 * 86400
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>ms|s|m|h|d|w)")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_SIZES = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2, "gb": 1000**3, "gib": 1024**3}
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[a-zA-Z]*)")


def parse_duration_s(text: str | float) -> float:
    """Seconds. Accepts `200ms`, `5s`, `5m`, `2h`, `30d`, `1w`, sums like `1h30m`, and plain numbers of seconds.

    Raises `ValueError` with the accepted forms.
    """
    seconds = _sum_s(text) if isinstance(text, str) else text
    if not 0 <= seconds <= _LONGEST_S:
        raise ValueError(f"{_cut(text)} is out of range: a duration is 0 to 3650d")
    return float(seconds)


def _sum_s(text: str) -> float:
    stripped, position, milliseconds = text.strip(), 0, Decimal(0)
    if not stripped:
        raise ValueError("a duration is empty: write 200ms, 5s, 5m, 2h, 30d, 1w or 1h30m")
    if _NUMBER.fullmatch(stripped):
        return float(stripped)
    while position < len(stripped):
        match = _DURATION.match(stripped, position)
        if match is None:
            raise ValueError(f"{_cut(text)} is no duration: write 200ms, 5s, 5m, 2h, 30d, 1w or 1h30m")
        milliseconds += Decimal(match["number"]) * _MILLISECONDS[match["unit"]]
        position = match.end()
    return float(milliseconds / 1000)


def format_duration(seconds: float) -> str:
    """The shortest exact way to write it: `200ms`, `90s`, `5m`, `24h`, `30d`."""
    milliseconds = Decimal(repr(seconds)) * 1000
    if milliseconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        amount = milliseconds / _MILLISECONDS[unit]
        least = 2 if unit == "d" else 1
        if amount >= least and amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{_plain(milliseconds)}ms" if milliseconds < 1000 else f"{_plain(milliseconds / 1000)}s"


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _cut(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def parse_size(text: str | int) -> int:
    """Bytes. Accepts `262144`, `256KiB`, `1MB`. Raises `ValueError` with the accepted forms."""
    match = _SIZE.fullmatch(str(text).strip())
    if match is None or match["unit"].lower() not in _SIZES:
        raise ValueError(f"{_cut(text)} is no size: write 262144, 256KiB, 1MB or 1MiB")
    return int(Decimal(match["number"]) * _SIZES[match["unit"].lower()])


def format_size(size: int) -> str:
    """`256KiB`, `16MiB`, or plain bytes."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def parse_ports(value: object) -> tuple[tuple[int, int], ...]:
    """Ports and ranges of them, like `80,443,1024-65535`, as first and last; `none` is none. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("write ports and ranges separated by commas, like 80,443,1024-65535")
    if value.strip().lower() == "none":
        return ()
    return tuple(_port_range(part.strip()) for part in value.split(",") if part.strip())


def format_ports(ranges: Iterable[tuple[int, int]]) -> str:
    """Ports as `parse_ports` reads them."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges) or "none"


def _port_range(text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text!r} is no port from 1 to 65535, and no range of them like 1024-65535")
    return first, last
