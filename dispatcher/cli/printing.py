"""What commands print: JSON as the API has it for scripts, tables for people; ids always whole, times local."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.cli.failures import note
from dispatcher.service.models import Answer, Page

#: How wide a table may get where no terminal says: lines are never cut for a pipe.
_PIPE_WIDTH = 1000

#: A column: its heading, and what stands in it.
Column = tuple[str, Callable[[Any], object]]

_STYLES = {
    "enabled": "green",
    "delivered": "green",
    "done": "green",
    "ok": "green",
    "paused": "yellow",
    "pending": "yellow",
    "sending": "cyan",
    "running": "cyan",
    "disabled": "red",
    "dead": "red",
    "FAILED": "bold red",
    "cancelled": "dim",
    "superseded": "dim",
}


def console() -> Console:
    """Standard output, as wide as its terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, soft_wrap=False)


def print_answer(answer: Answer, as_json: bool, shown: Callable[[], None]) -> None:
    """Prints JSON as the API answers, or what is `shown` to people."""
    if as_json:
        print_json(answer.model_dump_json(indent=2 if sys.stdout.isatty() else None))
    else:
        shown()


def print_json(text: str) -> None:
    """JSON text on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_page(page: Page[Any], as_json: bool, columns: Sequence[Column], nothing: str) -> None:
    """A list, and how to see what comes after it."""

    def shown() -> None:
        if not page.data:
            note(nothing)
        else:
            print_table(page.data, columns)
        if page.next_cursor:
            note(f"There are more: add --cursor {page.next_cursor}")

    print_answer(page, as_json, shown)


def print_table(rows: Iterable[Any], columns: Sequence[Column]) -> None:
    """One line per row."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading, _ in columns:
        # An id that is cut is of no use: a narrow terminal folds it.
        table.add_column(heading, overflow="fold", no_wrap=False, min_width=4)
    for row in rows:
        table.add_row(*(_cell(value(row)) for _, value in columns))
    console().print(table)


def print_record(fields: Mapping[str, object]) -> None:
    """One thing, a field per line."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(name), _cell(value))
    console().print(table)


def _cell(value: object) -> Text:
    # A tenant's texts may hold what a terminal obeys.
    text = "".join(
        character if character.isprintable() or character == "\n" else "�" for character in shown_value(value)
    )
    return Text(text, style=_STYLES.get(text, ""))


def shown_value(value: object) -> str:
    """A value as people read it."""
    match value:
        case None | "":
            return "–"
        case []:
            # Not the same as nothing: an empty retry schedule is one attempt.
            return "[]"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return local(value)
        case Enum():
            return str(value.value)
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(shown_value(item) for item in value)
        case Answer():
            return shown_value(dict(value))
        case dict():
            return "–" if not value else ", ".join(f"{name}={shown_value(item)}" for name, item in value.items())
        case _:
            return str(value)


def local(moment: datetime) -> str:
    """A moment in this machine's time zone, to the second."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def pretty_json(text: str) -> str:
    """JSON text over several lines, with its numbers and keys as they were written."""
    return msgspec.json.format(text.encode(), indent=2).decode()


def print_attributes(answer: Answer, *, without: Sequence[str] = ()) -> None:
    """Every field of an answer, one per line."""
    print_record({name: getattr(answer, name) for name in type(answer).model_fields if name not in without})


def print_secret(name: str, secret: str) -> None:
    """A secret, with the hint that it is not shown again."""
    sys.stdout.write(f"\n{name}: {secret}\n")
    sys.stdout.flush()
    note(f"Keep the {name} now: it is not shown again.")


def print_with_secret(made: Any) -> None:
    """What was just made, every field but the secret, then that, with the hint that it is not shown again."""
    print_attributes(made, without=("secret",))
    print_secret("secret", made.secret)
