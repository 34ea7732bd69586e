"""Logs: stable event names with fields, one line each, as JSON or for people; never a secret, signature or body.

A program calls `configure` once. Until then, as inside somebody else's app, everything goes to the standard
library's logger `dispatcher`, which that app configures like any other.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

import msgspec

from dispatcher.redaction import redact, sensitive_of

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]
Fields = MutableMapping[str, Any]
#: Level, event and fields as the bytes of a line.
Render = Callable[[str, str, Fields], bytes]

#: So many lines at the most wait for the end of a turn of the event loop.
_MOST_LINES = 500
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Line(msgspec.Struct, gc=False):
    """A line that is written so often that its fields are declared, in a class of its own that derives from this one:
    as JSON it costs a quarter of one whose fields are given by name. None of them is one that must not be logged.
    """

    time: datetime
    level: str
    event: str
    logger: str

    def fields(self) -> Fields:
        """All but its time, level and event, by their names."""
        return {field: getattr(self, field) for field in self.__struct_fields__[3:]}


class _Sink:
    """Where lines go, how they are written, and from which level; shared by all loggers."""

    def __init__(self) -> None:
        self.stream: BinaryIO | None = None
        self.level = 0
        self.render: Render = _as_json
        self._flushing: asyncio.AbstractEventLoop | None = None
        #: Lines of this turn of the event loop that are not in the stream yet.
        self._lines: list[Line] = []

    def takes(self, level: int) -> bool:
        return level >= self.level if self.stream else logging.getLogger("dispatcher").isEnabledFor(level)

    def say(self, level: str, event: str, fields: Fields) -> None:
        # The last line of defence: no call passes such a field.
        for field in sensitive_of(tuple(fields)):
            del fields[field]
        error = _error_of(fields.pop("exc_info", None))
        if error is not None:
            fields["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
        if self.stream is None:
            _to_standard_library(level, event, fields)
            return
        line = self.render(level, event, fields)
        self._write_lines()
        self._write(line + b"\n")
        self._flush_soon()

    def put(self, line: "Line") -> None:
        """Takes a line that is written as JSON with the others of this turn of the event loop."""
        self._lines.append(line)
        if len(self._lines) >= _MOST_LINES:
            self._write_lines()
        self._flush_soon()

    def _flush_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if self._flushing is not loop:
            # Lines of one turn of the event loop share a system call.
            self._flushing = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hands on what was written."""
        self._flushing = None
        self._write_lines()
        if self.stream is not None:
            with suppress(OSError, ValueError):
                self.stream.flush()

    def _write_lines(self) -> None:
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            self._write(_encode_lines(lines))
        except UnicodeEncodeError:
            # A lone surrogate in one of them.
            for line in lines:
                self._write(self.render(line.level, line.event, line.fields()) + b"\n")

    def _write(self, text: bytes) -> None:
        if self.stream is not None:
            # Whoever read the log is gone, or the disk is full: deliveries are worth more than their log.
            with suppress(OSError, ValueError):
                self.stream.write(text)


class Logger:
    """Writes one line per call, an event's name and its fields; costs next to nothing below the level."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def informs(self) -> bool:
        """Whether lines of level `info` are written: where making their fields is dear, ask first."""
        return _SINK.takes(20)

    @property
    def debugs(self) -> bool:
        """As `informs`, for `debug`."""
        return _SINK.takes(10)

    @property
    def warns(self) -> bool:
        """As `informs`, for `warning`."""
        return _SINK.takes(30)

    def debug(self, event: str, **fields: Any) -> None:
        if _SINK.takes(10):
            self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        if _SINK.takes(20):
            self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        if _SINK.takes(30):
            self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        if _SINK.takes(40):
            self._say("error", event, fields)

    def line(self, line: Line) -> None:
        """Writes a line whose level was asked for before."""
        if _SINK.stream is not None and _SINK.render is _as_json:
            _SINK.put(line)
        else:
            _SINK.say(line.level, line.event, line.fields())

    def _say(self, level: str, event: str, fields: Fields) -> None:
        _SINK.say(level, event, {"logger": self._name, **fields})

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self.error(event, exc_info=True, **fields)


def logger(name: str) -> Logger:
    """The logger of a module, `logger(__name__)`; may be made before `configure`."""
    return Logger(name)


def configure(log_format: Format = "auto", level: Level = "info", stream: BinaryIO | None = None) -> None:
    """Sends our logs of at least `level`, and other libraries' warnings, to `stream` (standard output).

    `auto` writes for people where the stream is a terminal, and JSON elsewhere.
    """
    target: BinaryIO = sys.stdout.buffer if stream is None else stream
    # What was written before goes where it was to go.
    _SINK.flush()
    for_people = log_format == "console" or (log_format == "auto" and target.isatty())
    _SINK.render = _for_people(colours=target.isatty()) if for_people else _as_json
    _SINK.stream, _SINK.level = target, _LEVELS[level]
    root = logging.getLogger()
    if not any(isinstance(handler, _Foreign) for handler in root.handlers):
        root.addHandler(_Foreign(logging.WARNING))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


_encoder = msgspec.json.Encoder(enc_hook=str)
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


def _as_json(level: str, event: str, fields: Fields) -> bytes:
    fields = {"time": datetime.now(UTC), "level": level, "event": event, **fields}
    try:
        line = _encode(fields)
    except UnicodeEncodeError:
        # A lone surrogate in a foreign message: an escaped line is better than none.
        line = _encode({field: _escaped(value) for field, value in fields.items()})
    return redact(line.decode()).encode()


def _error_of(exc_info: object) -> BaseException | None:
    """What `exc_info` stands for, as logging has it: an exception, a triple with one, or that which is handled now."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exc_info()[1]
        case _:
            return None


def _escaped(value: object) -> str:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ascii(value)


def _for_people(*, colours: bool) -> Render:
    # Only here: with what it draws with it takes a tenth of what a process that writes JSON does.
    from structlog.dev import ConsoleRenderer, plain_traceback

    # Plain tracebacks: rich ones print local variables, and those may hold a secret.
    renderer = ConsoleRenderer(
        colors=colours, timestamp_key="time", pad_event_to=24, exception_formatter=plain_traceback
    )

    def render(level: str, event: str, fields: Fields) -> bytes:
        time = f"{datetime.now(UTC).astimezone():%H:%M:%S.%f}"[:-3]
        line = renderer(None, level, {"time": time, "level": level, "event": event, **fields})
        return redact(line).encode("utf-8", "backslashreplace")

    return render


def _to_standard_library(level: str, event: str, fields: Fields) -> None:
    # The app's handlers would write an exception as it is: they are given its traceback as text instead.
    name, trace = fields.pop("logger"), fields.pop("exception", None)
    text = " ".join([event, *(f"{field}={value}" for field, value in fields.items())])
    logging.getLogger(name).log(_LEVELS[level], "%s", redact(text if trace is None else f"{text}\n{trace}"))


class _Foreign(logging.Handler):
    """Lets other libraries' records through the same pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        write = logger(record.name)
        fields = {"exc_info": record.exc_info} if record.exc_info else {}
        try:
            if record.levelno >= logging.ERROR:
                write.error(record.getMessage(), **fields)
            else:
                write.warning(record.getMessage(), **fields)
        except Exception:  # noqa: BLE001 - a handler never raises into the code that logs
            self.handleError(record)


_SINK = _Sink()
