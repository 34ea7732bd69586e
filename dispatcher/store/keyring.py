"""What is secret at rest: an envelope. Each value has a data key of its own, which a key of the ring wraps.

So a change of the ring rewraps data keys and never decrypts a value; a data key encrypts one message only, whatever
number of values there are; and a ring that lives elsewhere would have 32 bytes to unwrap, not the value. One per value
and not per row: a row's values change one by one, and each change would have to open the row's data key first.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dispatcher.errors import ConfigurationError

#: How a sealed value begins: a byte for its format, then the id of the key that wraps its data key.
FORMAT = b"\x02"
KEY_ID_BYTES = 8

_NONCE_BYTES = 12
_TAG_BYTES = 16
_DATA_KEY_BYTES = 32
_WRAPPED_FROM = len(FORMAT) + KEY_ID_BYTES
_KEY_FROM = _WRAPPED_FROM + _NONCE_BYTES
_BODY_FROM = _KEY_FROM + _DATA_KEY_BYTES + _TAG_BYTES
#: A data key encrypts once, so that it needs no other.
_ONLY_NONCE = bytes(_NONCE_BYTES)
#: Keys of rings that are made ready once; a ring has two or three.
_KEYS = 16


class Unreadable(ConfigurationError):
    """A sealed value cannot be opened: its key is not in `DISPATCHER_SECRET_KEY`, or the value was changed."""


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Keys by their id; the first seals, all open."""

    keys: tuple[bytes, ...]

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The keys' ids, in the keys' order; an id tells nothing about its key."""
        return tuple(_key_id(key) for key in self.keys)

    def seal(self, plain: str, purpose: str, owner: object = "") -> bytes:
        """`plain`, encrypted and bound to `purpose` (a word for the column it goes to) and `owner` (whose it is).

        AES-256-GCM twice: the value under a fresh data key, that under the first key of the ring.
        """
        data_key = os.urandom(_DATA_KEY_BYTES)
        return self._wrap(data_key) + AESGCM(data_key).encrypt(_ONLY_NONCE, plain.encode(), _bound(purpose, owner))

    def open(self, sealed: bytes, purpose: str, owner: object = "") -> str:
        """What was sealed for `purpose` and `owner`. Raises `Unreadable` when no key of the ring fits."""
        data_key = self._unwrap(sealed)
        if data_key is not None:
            try:
                return AESGCM(data_key).decrypt(_ONLY_NONCE, sealed[_BODY_FROM:], _bound(purpose, owner)).decode()
            except InvalidTag:
                pass
        raise Unreadable(
            f"a stored {purpose} cannot be decrypted: put the key that encrypted it into DISPATCHER_SECRET_KEY"
        )

    def rewrap(self, sealed: bytes) -> bytes:
        """The same value under the first key; its content is not decrypted. Raises `Unreadable`."""
        data_key = self._unwrap(sealed)
        if data_key is None:
            raise Unreadable("a stored value cannot be rewrapped: its key is not in DISPATCHER_SECRET_KEY")
        return self._wrap(data_key) + sealed[_BODY_FROM:]

    def _wrap(self, data_key: bytes) -> bytes:
        key, nonce = self.keys[0], os.urandom(_NONCE_BYTES)
        head = FORMAT + _key_id(key)
        return head + nonce + _cipher(key).encrypt(nonce, data_key, head)

    def _unwrap(self, sealed: bytes) -> bytes | None:
        head, nonce, wrapped = sealed[:_WRAPPED_FROM], sealed[_WRAPPED_FROM:_KEY_FROM], sealed[_KEY_FROM:_BODY_FROM]
        for key in self.keys:
            if head == FORMAT + _key_id(key) and len(sealed) > _BODY_FROM:
                try:
                    return _cipher(key).decrypt(nonce, wrapped, head)
                except InvalidTag:
                    return None
        return None


def _bound(purpose: str, owner: object) -> bytes:
    return f"{purpose}\0{owner}".encode()


@lru_cache(maxsize=_KEYS)
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(key)


@lru_cache(maxsize=_KEYS)
def _key_id(key: bytes) -> bytes:
    return sha256(b"dispatcher key id" + key).digest()[:KEY_ID_BYTES]


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
