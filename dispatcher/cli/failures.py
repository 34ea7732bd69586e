"""How a command ends: 0 done, 1 failed, 2 wrong use, 130 interrupted; a failure is one line on standard error."""

import sys
import traceback
from collections.abc import Callable
from types import TracebackType

import typer

from dispatcher.errors import DispatcherError, InvalidField, InvalidSettings
from dispatcher.redaction import redact

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130


def exit_code_of(command: Callable[[], object]) -> int:
    """Runs `command` and says how it ended; whatever is expected to go wrong is told without a traceback."""
    try:
        outcome = command()
    except typer.TyperException as error:
        # Without a message, a group was called bare and its help has been printed.
        if error.format_message():
            complain(_with_hint(error))
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (InvalidField, InvalidSettings) as error:
        complain(str(error))
        return WRONG_USE
    except DispatcherError as error:
        complain(str(error))
        return FAILED
    except OSError as error:
        complain(f"{error.strerror or type(error).__name__}{f': {error.filename}' if error.filename else ''}")
        return FAILED
    return outcome if isinstance(outcome, int) else 0


def tell_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception that nobody expected, as Python prints it, but without secrets: what `sys.excepthook` is set to."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def complain(text: str) -> None:
    """One line on standard error, red on a terminal."""
    line = redact(" ".join(text.split()))
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {line}", err=True)


def wrong_use(text: str) -> typer.Exit:
    """What to raise when a command was called wrongly in a way that only its body can see."""
    complain(text)
    return typer.Exit(WRONG_USE)


def _with_hint(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    # "Value error, " is how the library that reads a choice begins what it says.
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ").rstrip(".")
    return f"{message}; see: {context.command_path} --help" if context is not None else message


def note(text: str) -> None:
    """A line beside the output: on standard error, so that pipes stay clean."""
    typer.echo(redact(text), err=True)
    sys.stderr.flush()
