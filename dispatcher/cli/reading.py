"""How the texts of options and arguments are read; what cannot be is a wrong use, told with how to write it."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from dispatcher.clock import parse_rfc3339
from dispatcher.units import parse_duration_s, parse_size

#: What stands for JSON's null on the command line.
NULL = "null"


def read_moment(text: str) -> datetime:
    """A time, or a duration before now."""
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration_s(text))
    except ValueError:
        pass
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 2h (that long ago) or 2026-01-02T03:04:05Z") from None


def read_time(text: str) -> datetime:
    """A time."""
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write it like 2026-01-02T03:04:05Z") from None


def read_size(text: str) -> int:
    """Bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; `null` leaves it to the settings") from None


def read_number(text: str) -> float:
    """A number, as the API takes it."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number") from None


def read_count(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number; `null` leaves it to the settings") from None


def read_switch(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise typer.BadParameter(f"{text!r} is neither true nor false; `null` leaves it to the settings")
    return text == "true"


def read_schedule(text: str) -> tuple[float, ...]:
    """Delays separated by commas, or nothing for a single attempt."""
    try:
        return tuple(parse_duration_s(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{error}; separate several by commas, like 5s,5m,30m") from None


def pairs(texts: list[str] | None, separator: str, option: str) -> dict[str, str] | None:
    """`name=value` or `Name: value` texts as a mapping; a name given twice is refused."""
    if texts is None:
        return None
    found: dict[str, str] = {}
    for text in texts:
        name, between, value = text.partition(separator)
        name = name.strip()
        if not between or not name:
            like = "'Name: value'" if separator == ":" else "name=value"
            raise typer.BadParameter("a value has no name: write it like " + like, param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value.strip() if separator == ":" else value
    return found


def read_data(text: str) -> str:
    """An event's data: JSON text, `@file`, or `-` for standard input."""
    if text == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input", "--data")
    return _read(text, "--data")


def read_file(text: str) -> str:
    """An option's text, or with `@file` what is in that file."""
    # Which option it is, typer says.
    return _read(text, None)


def read_object(text: str) -> dict[str, Any]:
    """A JSON object, or `@file` with one."""
    try:
        found = json.loads(read_file(text))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        # Never what was given, which holds a secret.
        raise typer.BadParameter('is no JSON object; write it like \'{"client_id": "…"}\', or name a @file with it')
    return found


def _read(text: str, option: str | None) -> str:
    if not text.startswith("@"):
        return text
    try:
        return _decoded(Path(text[1:]).read_bytes(), text[1:], option)
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint=option) from None


def _decoded(raw: bytes, source: str, option: str | None) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{source} is not UTF-8", param_hint=option) from None
