"""What is secret at rest: sealed with AES-256-GCM under a key of the ring, and bound to the place it is kept for."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dispatcher.errors import ConfigurationError

_FORMAT = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12


class Unreadable(ConfigurationError):
    """A sealed value cannot be opened: its key is not in `DISPATCHER_SECRET_KEY`, or the value was changed."""


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Keys by their id; the first seals, all open."""

    keys: tuple[bytes, ...]

    def seal(self, plain: str, purpose: str) -> bytes:
        """`plain`, encrypted and bound to `purpose` (a word for the column it goes to)."""
        key, nonce = self.keys[0], os.urandom(_NONCE_BYTES)
        return _FORMAT + _key_id(key) + nonce + AESGCM(key).encrypt(nonce, plain.encode(), purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> str:
        """What was sealed for `purpose`. Raises `Unreadable` when no key of the ring fits."""
        start = len(_FORMAT) + _KEY_ID_BYTES
        for key in self.keys:
            if sealed[: len(_FORMAT)] == _FORMAT and sealed[len(_FORMAT) : start] == _key_id(key):
                nonce, body = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
                try:
                    return AESGCM(key).decrypt(nonce, body, purpose.encode()).decode()
                except InvalidTag:
                    break
        raise Unreadable(
            f"a stored {purpose} cannot be decrypted: put the key that encrypted it into DISPATCHER_SECRET_KEY"
        )


def _key_id(key: bytes) -> bytes:
    return sha256(b"dispatcher key id" + key).digest()[:_KEY_ID_BYTES]


def key_path(database_file: Path) -> Path:
    """Where the key file of a SQLite database is."""
    real = database_file.resolve()
    return real.with_name(real.name + ".key")


def key_file(database_file: Path) -> KeyRing:
    """The key ring in the file beside a SQLite database, made with mode 0600 where there is none yet."""
    path = key_path(database_file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
    else:
        key = os.urandom(32)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
    if len(key) != 32:
        raise ConfigurationError(
            f"the key file {path} does not hold 32 bytes; restore it from a backup, or set DISPATCHER_SECRET_KEY"
        )
    return KeyRing((key,))
