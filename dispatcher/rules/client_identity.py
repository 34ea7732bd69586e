"""Client certificates: vetted once, kept with their key, and shown without it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dispatcher.clock import rfc3339
from dispatcher.errors import InvalidField

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

#: Characters of a certificate with its chain, and of a key.
LONGEST = 32 * 1024
LONGEST_CHAIN = 8
#: A subject may be as long as its author likes.
LONGEST_SUBJECT = 200

_CERTIFICATE, _KEY = "client_certificate", "client_key"
#: Each connection that shows a longer one would hold up all others for tens of milliseconds.
_LEAST_RSA_BITS, _MOST_RSA_BITS = 2048, 4096
_BROKEN_HASHES = frozenset({"md5", "sha1"})


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """What the dispatcher shows a receiver that asks who it is."""

    #: PEM: the certificate, then what leads to an authority.
    certificate: str
    #: PEM, unencrypted.
    key: str = field(repr=False)

    @classmethod
    def parse(cls, certificate: str, key: str, now: datetime) -> "ClientIdentity":
        """The vetted pair, written anew, so that no other program reads it otherwise. Raises `InvalidField`."""
        # Only here: most endpoints have none, and loading it takes a producer long.
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        chain = _read_chain(certificate)
        secret = _read_key(key)
        try:
            _check_leaf(chain[0], now)
            belongs = chain[0].public_key() == secret.public_key()
            _shown(chain[0])
        except InvalidField:
            raise
        except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            # A certificate is read part by part, each when it is asked for.
            raise InvalidField(_CERTIFICATE, "has parts that cannot be read; have it issued anew") from None
        if not belongs:
            raise InvalidField(_KEY, "does not belong to client_certificate, whose first certificate must be its own")
        return cls(
            "".join(one.public_bytes(Encoding.PEM).decode() for one in chain),
            secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        )

    @property
    def expires_at(self) -> datetime:
        """The end of the certificate's time."""
        return _read_chain(self.certificate)[0].not_valid_after_utc

    @property
    def shown(self) -> dict[str, str]:
        """What may be told of it: whom it names, and its SHA-256 in hexadecimal digits."""
        return _shown(_read_chain(self.certificate)[0])


def _shown(leaf: "x509.Certificate") -> dict[str, str]:
    from cryptography.hazmat.primitives.hashes import SHA256

    return {
        "subject": leaf.subject.rfc4514_string()[:LONGEST_SUBJECT],
        "sha256": leaf.fingerprint(SHA256()).hex(),
    }


def _read_chain(text: str) -> "list[x509.Certificate]":
    from cryptography import x509

    if len(text) > LONGEST:
        raise InvalidField(_CERTIFICATE, f"has {len(text)} characters; {LONGEST} are the most")
    try:
        chain = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise InvalidField(
            _CERTIFICATE, "is no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----"
        ) from None
    if len(chain) > LONGEST_CHAIN:
        raise InvalidField(_CERTIFICATE, f"has {len(chain)} certificates; {LONGEST_CHAIN} are the most")
    return chain


def _read_key(text: str) -> "PrivateKeyTypes":
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if len(text) > LONGEST:
        raise InvalidField(_KEY, f"has {len(text)} characters; {LONGEST} are the most")
    try:
        # The library would test RSA's primes for being prime: of 32 KiB of them, for minutes.
        key = load_pem_private_key(text.encode(), password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise InvalidField(
            _KEY, "is encrypted; send it without a password: it is encrypted here before it is stored"
        ) from None
    except (ValueError, UnsupportedAlgorithm, InternalError):
        raise InvalidField(_KEY, "is no private key in PEM: it begins with -----BEGIN PRIVATE KEY-----") from None
    match key:
        case RSAPrivateKey() if not _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS:
            raise InvalidField(
                _KEY, f"has {key.key_size} bits; an RSA key must have {_LEAST_RSA_BITS} to {_MOST_RSA_BITS}"
            )
        case RSAPrivateKey() if not _adds_up(key):
            raise InvalidField(_KEY, "is an RSA key whose numbers do not go together; send the one that was generated")
        case RSAPrivateKey() | EllipticCurvePrivateKey() | Ed25519PrivateKey():
            return key
        case _:
            raise InvalidField(_KEY, "is of a kind that TLS does not use here; use RSA, an elliptic curve or Ed25519")


def _adds_up(key: "RSAPrivateKey") -> bool:
    """Whether an RSA key's numbers are each other's: with others, of any length, each signature would take long."""
    numbers = key.private_numbers()
    n, e, p, q, d = numbers.public_numbers.n, numbers.public_numbers.e, numbers.p, numbers.q, numbers.d
    return (
        min(p, q) > 2
        and p * q == n
        and n % 2 == 1
        and 1 < e < 2**64
        and 0 < d < n
        and numbers.dmp1 == d % (p - 1)
        and numbers.dmq1 == d % (q - 1)
        and numbers.dmp1 * e % (p - 1) == numbers.dmq1 * e % (q - 1) == 1
        and 0 < numbers.iqmp < p
        and numbers.iqmp * q % p == 1
    )


def _check_leaf(leaf: "x509.Certificate", now: datetime) -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if now >= leaf.not_valid_after_utc:
        raise InvalidField(_CERTIFICATE, f"expired at {rfc3339(leaf.not_valid_after_utc)}; send its successor")
    if now < leaf.not_valid_before_utc:
        raise InvalidField(_CERTIFICATE, f"is not valid before {rfc3339(leaf.not_valid_before_utc)}; send it then")
    hashed = leaf.signature_hash_algorithm
    if hashed is not None and hashed.name in _BROKEN_HASHES:
        raise InvalidField(_CERTIFICATE, f"is signed with {hashed.name}, which proves nothing; have it issued anew")
    try:
        usages: Any = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
        raise InvalidField(
            _CERTIFICATE, "may not be used by clients (its extended key usage lacks clientAuth); have one issued for it"
        )
