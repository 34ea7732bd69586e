"""The key ring from a command, such as a secret store's own client: asked at each start, and kept nowhere."""

import shlex
import subprocess

from dispatcher.errors import ConfigurationError
from dispatcher.redaction import keep_out
from dispatcher.settings import parse_keys

#: How long the command may take, in seconds.
LIMIT_S = 10.0
#: Some dozens of keys; what is longer is something else.
_MOST_CHARACTERS = 8192

_NAME = "DISPATCHER_SECRET_KEY_COMMAND"


def keys_of(command: str) -> tuple[bytes, ...]:
    """The keys that the command prints, as `DISPATCHER_SECRET_KEY` holds them.

    No shell reads it. What it says on standard error goes to ours. Raises `ConfigurationError`, which never repeats
    what it printed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"{_NAME} cannot be read: {error}; quote it as for a shell") from None
    if not words:
        raise ConfigurationError(f"{_NAME} names no command; name one that prints the keys")
    try:
        ended = subprocess.run(  # noqa: S603 - the operator's own command, and no shell
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"{_NAME} ({words[0]}) did not end within {LIMIT_S:g} s; see that it needs no answer and reaches its store"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{_NAME} cannot be run ({words[0]}: {error.strerror}); it takes no shell: for pipes name `sh -c '…'`"
        ) from None
    if ended.returncode != 0:
        raise ConfigurationError(
            f"{_NAME} ({words[0]}) failed with exit code {ended.returncode}; run it by hand as this user"
        )
    try:
        text = ended.stdout.decode()
        if len(text) > _MOST_CHARACTERS:
            raise ValueError(f"is over {_MOST_CHARACTERS} characters long; print the keys only")
        keys = parse_keys(text)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{_NAME} ({words[0]}) prints what is no text; print the keys in base64") from None
    except ValueError as error:
        raise ConfigurationError(f"what {_NAME} ({words[0]}) prints {error}") from None
    keep_out(text.replace(",", " ").split())
    return keys
