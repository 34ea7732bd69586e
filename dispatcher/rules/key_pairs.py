"""What signs for an endpoint: a secret that the receiver shares, and beside it a key pair that nobody else can sign
with (`v1a`, ed25519), made together so that one rotation changes both.
"""

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dispatcher.errors import InvalidField
from dispatcher.rules.secrets import Secret

PUBLIC_PREFIX = "whpk_"
PRIVATE_PREFIX = "whsk_"

_SEED_BYTES = 32
#: No secret has one: they hold no control characters.
_BETWEEN = "\n"


@dataclass(frozen=True, slots=True, repr=False)
class SigningKeys:
    """A secret with its key pair, of which the private half is a random seed: never derived from the secret, which
    may be short, and which the published half would then let strangers guess.
    """

    secret: Secret
    seed: bytes

    @classmethod
    def beside(cls, secret: Secret) -> "SigningKeys":
        """The secret with a fresh key pair."""
        return cls(secret, secrets.token_bytes(_SEED_BYTES))

    @classmethod
    def read(cls, text: str) -> "SigningKeys":
        """What `text` wrote. Raises `InvalidField` for what it never writes."""
        secret, _, seed = text.partition(_BETWEEN)
        return cls(Secret.parse(secret), seed_of(seed))

    @property
    def text(self) -> str:
        """Both as one text, to be sealed."""
        return f"{self.secret.text}{_BETWEEN}{PRIVATE_PREFIX}{base64.b64encode(self.seed).decode()}"

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """What signs `v1a`; made anew at each call, which costs as much as a signature."""
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public_key(self) -> "PublicKey":
        """What receivers verify `v1a` with."""
        return PublicKey(self.private_key.public_key().public_bytes_raw())


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The published half of a key pair: 32 bytes."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """The key behind `whpk_`. Raises `InvalidField`."""
        raw = _decoded(text, PUBLIC_PREFIX)
        if len(raw) != _SEED_BYTES:
            raise InvalidField("secret", f"{PUBLIC_PREFIX} is followed by {len(raw)} bytes, and must be by 32")
        return cls(raw)

    def verifies(self, signature: bytes, content: bytes) -> bool:
        """Whether the signature is this key's over the content."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def text(self) -> str:
        """As Standard Webhooks writes it: `whpk_` and base64."""
        return PUBLIC_PREFIX + base64.b64encode(self.raw).decode()

    @property
    def thumbprint(self) -> str:
        """Its id: the JWK thumbprint of RFC 7638, which anybody can compute from the key."""
        members = {"crv": "Ed25519", "kty": "OKP", "x": self.jwk_x}
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(sha256(canonical).digest()).rstrip(b"=").decode()

    @property
    def jwk_x(self) -> str:
        """The member `x` of its JWK (RFC 8037)."""
        return base64.urlsafe_b64encode(self.raw).rstrip(b"=").decode()


def seed_of(text: str) -> bytes:
    """The seed behind `whsk_`: 32 bytes, or these and the public key's. Raises `InvalidField`."""
    raw = _decoded(text, PRIVATE_PREFIX)
    if len(raw) not in (_SEED_BYTES, 2 * _SEED_BYTES):
        raise InvalidField("secret", f"{PRIVATE_PREFIX} is followed by {len(raw)} bytes, and must be by 32 or 64")
    return raw[:_SEED_BYTES]


def _decoded(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise InvalidField("secret", f"does not begin with {prefix}")
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (ValueError, binascii.Error):
        raise InvalidField("secret", f"what follows {prefix} is not standard base64, padded with =") from None
