"""Keys that follow from those of the key ring, so that what is made with them tells nothing about what encrypts."""

from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


@lru_cache(maxsize=32)
def derived_key(key: bytes, purpose: str) -> bytes:
    """The 32 bytes that follow from `key` for `purpose`, always the same (HKDF-SHA256)."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"dispatcher {purpose}".encode()).derive(key)
