"""The options that commands share, and how their texts are read; each is named like its field in the API."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from dispatcher.clock import parse_rfc3339
from dispatcher.states import Profile, Reason, SignatureVersion
from dispatcher.units import parse_duration_s, parse_size

#: What stands for JSON's null on the command line.
NULL = "null"


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(("[bold]Example[/bold]" if len(lines) == 1 else "[bold]Examples[/bold]", *map(_escaped, lines)))


def _escaped(line: str) -> str:
    return line.replace("[", "\\[")


def given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value: what was not given stays out of a request."""
    return {name: value for name, value in fields.items() if value is not None}


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


def read_nullable_size(text: str) -> int | str:
    """Bytes, or `null`."""
    try:
        return NULL if text == NULL else parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; `null` leaves it to the settings") from None


def read_number(text: str) -> float:
    """A number, as the API takes it."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number") from None


def read_nullable_number(text: str) -> float | str:
    """A number, or `null`."""
    return NULL if text == NULL else read_number(text)


def read_nullable_count(text: str) -> int | str:
    """A whole number, or `null`."""
    if text == NULL:
        return NULL
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number; `null` leaves it to the settings") from None


def read_nullable_switch(text: str) -> bool | str:
    """`true`, `false`, or `null`."""
    if text == NULL:
        return NULL
    if text not in ("true", "false"):
        raise typer.BadParameter(f"{text!r} is neither true nor false; `null` leaves it to the settings")
    return text == "true"


def read_schedule(text: str) -> tuple[float, ...] | str:
    """Delays separated by commas, `null`, or nothing for a single attempt."""
    if text == NULL:
        return NULL
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


def unnulled(value: Any) -> Any:
    """`null` as None, lists as JSON has them."""
    if value == NULL:
        return None
    return list(value) if isinstance(value, tuple) else value


def read_data(text: str) -> str:
    """An event's data: JSON text, `@file`, or `-` for standard input."""
    if text == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input", "--data")
    return _read(text, "--data")


def read_file(text: str) -> str:
    """An option's text, or with `@file` what is in that file."""
    # Which option it is, typer says.
    return _read(text, None)


def read_nullable_object(text: str) -> dict[str, Any] | str:
    """A JSON object, `@file` with one, or `null`."""
    if text == NULL:
        return NULL
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

EventTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--event-types", help="An exact type, or 'prefix.*'; repeat it for several.", show_default="every type"
    ),
]
JobId = Annotated[str | None, typer.Option("--job-id", help="The job.")]
EndpointId = Annotated[str | None, typer.Option("--endpoint-id", metavar="EP_ID", help="Only this endpoint's.")]
EventType = Annotated[str | None, typer.Option("--type", help="Only this type.")]
DeadReason = Annotated[Reason | None, typer.Option("--reason", help="Only what was given up for this reason.")]
Redelivered = Annotated[
    bool | None, typer.Option("--redelivered/--no-redelivered", help="Only what was, or was not, redelivered since.")
]
Description = Annotated[str | None, typer.Option("--description", help="A note for people.")]
BodyProfile = Annotated[Profile | None, typer.Option("--profile", help="How an event becomes a body.")]
Ordered = Annotated[
    bool | None, typer.Option("--ordered/--no-ordered", help="One job's events one at a time and in order.")
]
OrderHoldS = Annotated[
    Any,
    typer.Option(
        "--order-hold-s",
        parser=read_nullable_number,
        metavar="SECONDS",
        help="How long a failing delivery holds back its job's later ones; `null`: until it is settled.",
    ),
]
ProgressIntervalS = Annotated[
    Any,
    typer.Option(
        "--progress-interval-s",
        parser=read_nullable_number,
        metavar="SECONDS",
        help="The least time between two progress deliveries of one job; `null`: no limit.",
    ),
]
HeartbeatS = Annotated[
    Any,
    typer.Option(
        "--heartbeat-s",
        parser=read_nullable_number,
        metavar="SECONDS",
        help="Send a webhook.heartbeat after so long without a delivery (10 or more); `null`: never.",
    ),
]
Signatures = Annotated[
    list[SignatureVersion] | None,
    typer.Option("--signatures", help="v1 (HMAC), and v1a (ed25519) beside it; repeat it for both.", show_default="v1"),
]
SignatureHeader = Annotated[
    str | None,
    typer.Option("--signature-header", help="An additional header with a hex HMAC-SHA256 of the body; `null`: none."),
]
SignaturePrefix = Annotated[
    str | None, typer.Option("--signature-prefix", help="Put before that header's value, like sha256=.")
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--headers", metavar="'NAME: VALUE'", help="A static header of every attempt; repeat it for several."),
]
RateLimit = Annotated[
    Any,
    typer.Option(
        "--rate-limit",
        parser=read_nullable_number,
        metavar="PER_S",
        help="The most attempts per second; `null`: no limit.",
    ),
]
MaxInFlight = Annotated[
    Any,
    typer.Option(
        "--max-in-flight",
        parser=read_nullable_count,
        metavar="COUNT",
        help="The most attempts at once; `null`: by the settings.",
    ),
]
RetrySchedule = Annotated[
    Any,
    typer.Option(
        "--retry-schedule",
        parser=read_schedule,
        metavar="DELAYS",
        help="Delays before the retries, like 5s,5m,2h; '': one attempt only; `null`: by the settings.",
    ),
]
TimeoutS = Annotated[
    Any,
    typer.Option(
        "--timeout-s",
        parser=read_nullable_number,
        metavar="SECONDS",
        help="For a whole attempt; `null`: by the settings.",
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="NAME=VALUE", help="A text of yours; repeat it for several."),
]
ClientCertificate = Annotated[
    str | None,
    typer.Option(
        "--client-certificate",
        parser=read_file,
        metavar="@FILE",
        help="A certificate in PEM, with its chain, for a receiver that asks who connects; `null`: none.",
    ),
]
ClientKey = Annotated[
    str | None,
    typer.Option(
        "--client-key", parser=read_file, metavar="@FILE", help="Its private key in PEM; encrypted and never shown."
    ),
]
OAuth2 = Annotated[
    Any,
    typer.Option(
        "--oauth2",
        parser=read_nullable_object,
        metavar="@FILE",
        help="JSON with token_url, client_id and client_secret: access tokens are sent along; `null`: none.",
    ),
]
