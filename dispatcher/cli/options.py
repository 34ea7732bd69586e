"""The options that commands share; each is named like its field in the API."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from dispatcher.cli.reading import NULL, read_moment
from dispatcher.states import Reason


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(("[bold]Example[/bold]" if len(lines) == 1 else "[bold]Examples[/bold]", *map(_escaped, lines)))


def _escaped(line: str) -> str:
    return line.replace("[", "\\[")


def given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value: what was not given stays out of a request."""
    return {name: value for name, value in fields.items() if value is not None}


def requested(**fields: Any) -> dict[str, Any]:
    """The fields that were given, as JSON has them: `null` as None, several as a list."""
    return {name: _as_json_has_it(value) for name, value in given(**fields).items()}


def _as_json_has_it(value: Any) -> Any:
    if value == NULL:
        return None
    return list(value) if isinstance(value, tuple) else value


def nullable(option: str, read: Callable[[str], Any], *, metavar: str, help: str) -> Any:
    """The option of a field that takes a value, as `read` reads it, or `null` for none."""

    def read_nullable(text: str) -> Any:
        return NULL if text == NULL else read(text)

    return typer.Option(option, parser=read_nullable, metavar=metavar, help=help)


AsJson = Annotated[bool, typer.Option("--json", help="Print what the HTTP API would answer.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's (default: every tenant's).")]
Owner = Annotated[str | None, typer.Option("--tenant", help="Whose it becomes (default: default).")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Where the list before ended.")]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=read_moment, metavar="TIME", help="From then on: 2h (that long ago) or RFC 3339."),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=read_moment, metavar="TIME", help="Before then: 2h (that long ago) or RFC 3339."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]
RatePerS = Annotated[
    float | None, typer.Option("--rate-per-s", help="The most put back per second (default: as fast as it goes).")
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end, also where there is no terminal.")]

JobId = Annotated[str | None, typer.Option("--job-id", help="The job.")]
EndpointId = Annotated[str | None, typer.Option("--endpoint-id", metavar="EP_ID", help="Only this endpoint's.")]
EventType = Annotated[str | None, typer.Option("--type", help="Only this type.")]
DeadReason = Annotated[Reason | None, typer.Option("--reason", help="Only what was given up for this reason.")]
Redelivered = Annotated[
    bool | None, typer.Option("--redelivered/--no-redelivered", help="Only what was, or was not, redelivered since.")
]
