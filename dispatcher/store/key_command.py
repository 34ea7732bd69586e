"""The key ring from a command, such as a secret store's own client: asked at each start, and kept nowhere."""

import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Sequence
from typing import IO, cast

from dispatcher.errors import ConfigurationError
from dispatcher.redaction import keep_out
from dispatcher.settings import parse_keys

#: How long the command may take, in seconds.
LIMIT_S = 10.0
#: Some dozens of keys; what is longer is something else.
_MOST_BYTES = 8192

_NAME = "DISPATCHER_SECRET_KEY_COMMAND"


def keys_of(command: str) -> tuple[bytes, ...]:
    """The keys that the command prints, as `DISPATCHER_SECRET_KEY` holds them.

    No shell reads it. What it says on standard error goes to ours. It is killed where it takes longer than `LIMIT_S` or
    prints more than keys can be. Raises `ConfigurationError`, which never repeats what it printed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"{_NAME} cannot be read: {error}; quote it as for a shell") from None
    if not words:
        raise ConfigurationError(f"{_NAME} names no command; name one that prints the keys")
    try:
        printed, exit_code = _run(words)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"{_NAME} ({words[0]}) did not end within {LIMIT_S:g} s; see that it needs no answer and reaches its store"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{_NAME} cannot be run ({words[0]}: {error.strerror}); it takes no shell: for pipes name `sh -c '…'`"
        ) from None
    if len(printed) > _MOST_BYTES:
        raise ConfigurationError(
            f"what {_NAME} ({words[0]}) prints is over {_MOST_BYTES} bytes long; print the keys only"
        )
    if exit_code != 0:
        raise ConfigurationError(f"{_NAME} ({words[0]}) failed with exit code {exit_code}; run it by hand as this user")
    try:
        text = printed.decode()
        keys = parse_keys(text)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{_NAME} ({words[0]}) prints what is no text; print the keys in base64") from None
    except ValueError as error:
        raise ConfigurationError(f"what {_NAME} ({words[0]}) prints {error}") from None
    keep_out(text.replace(",", " ").split())
    return keys


def _run(words: Sequence[str]) -> tuple[bytes, int]:
    """What a command prints, and its exit code; of one that prints more than `_MOST_BYTES` the start, and it is killed.

    Raises `TimeoutExpired`, when it was killed too, and `OSError`.
    """
    until = time.monotonic() + LIMIT_S
    with subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        try:
            printed = _read(process, until)
            if len(printed) <= _MOST_BYTES:
                return printed, process.wait(max(0.0, until - time.monotonic()))
        finally:
            # Nothing is done to one that has ended.
            process.kill()
    return printed, process.returncode


def _read(process: "subprocess.Popen[bytes]", until: float) -> bytes:
    printed, output = b"", cast("IO[bytes]", process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while len(printed) <= _MOST_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise subprocess.TimeoutExpired(process.args, LIMIT_S)
            # Its descriptor's own: a buffered read would wait for more.
            chunk = os.read(output.fileno(), _MOST_BYTES)
            if not chunk:
                break
            printed += chunk
    return printed
