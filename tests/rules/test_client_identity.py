"""Client certificates: what is taken, how it is written anew, and what of it may be shown."""

import base64
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from dispatcher.errors import InvalidField
from dispatcher.rules.client_identity import LONGEST, LONGEST_CHAIN, ClientIdentity
from tests.transport.certificates import Authority

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "authority")


def test_a_pair_is_kept_and_told_without_its_key(authority: Authority) -> None:
    certificate, key = authority.client("dispatcher.example.com", at=NOW, days=1)
    chain = certificate + authority.trusted.read_text()
    identity = ClientIdentity.parse(f"what people write above\n{chain}", f"\n{key}", NOW)
    assert (identity.certificate, identity.key) == (chain, key)
    assert identity.shown["subject"] == "CN=dispatcher.example.com"
    assert identity.expires_at == datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
    assert key not in repr(identity)


def test_a_key_in_an_older_form_is_written_anew(authority: Authority) -> None:
    certificate, key = authority.client("us", at=NOW)
    older = load_pem_private_key(key.encode(), None).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    assert ClientIdentity.parse(certificate, older.decode(), NOW).key == key


@pytest.mark.parametrize("usage", [None, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
def test_a_certificate_for_any_use_is_one_for_clients(authority: Authority, usage: None) -> None:
    certificate, key = authority.client("us", at=NOW, usage=usage)
    assert ClientIdentity.parse(certificate, key, NOW).certificate == certificate


def pem(key: rsa.RSAPrivateKey | dsa.DSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def encrypted(key: str) -> str:
    opened = load_pem_private_key(key.encode(), None)
    return opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")).decode()


REFUSED: dict[str, tuple[Callable[[Authority, str, str], tuple[str, str]], str, str]] = {
    "another key": (lambda a, c, k: (c, a.client("us", at=NOW)[1]), "client_key", "does not belong"),
    "a key of another kind": (lambda a, c, k: (c, pem(ed25519.Ed25519PrivateKey.generate())), "client_key", "belong"),
    "a chain without its leaf first": (
        lambda a, c, k: (a.client("another", at=NOW)[0] + c, k),
        "client_key",
        "does not belong",
    ),
    "expired": (lambda a, c, k: a.client("us", at=NOW, days=-0.01), "client_certificate", "expired"),
    "not yet": (lambda a, c, k: a.client("us", at=NOW, days=2.01), "client_certificate", "not valid before"),
    "a server's": (
        lambda a, c, k: a.client("us", at=NOW, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "client_certificate",
        "clientAuth",
    ),
    "no certificate": (lambda a, c, k: ("none", k), "client_certificate", "PEM"),
    "a key for a certificate": (lambda a, c, k: (k, k), "client_certificate", "PEM"),
    "half a certificate": (lambda a, c, k: (c[:200], k), "client_certificate", "PEM"),
    "no key": (lambda a, c, k: (c, "none"), "client_key", "PEM"),
    "a certificate for a key": (lambda a, c, k: (c, c), "client_key", "PEM"),
    "an encrypted key": (lambda a, c, k: (c, encrypted(k)), "client_key", "encrypted"),
    "a short key": (
        lambda a, c, k: (c, pem(rsa.generate_private_key(65537, 1024))),
        "client_key",
        "1024 bits",
    ),
    "no key of TLS": (lambda a, c, k: (c, pem(dsa.generate_private_key(1024))), "client_key", "kind"),
    "a long certificate": (lambda a, c, k: (c + " " * LONGEST, k), "client_certificate", f"{LONGEST} are the most"),
    "a long key": (lambda a, c, k: (c, k + " " * LONGEST), "client_key", f"{LONGEST} are the most"),
    "a long chain": (lambda a, c, k: (c * (LONGEST_CHAIN + 1), k), "client_certificate", "certificates"),
}


@pytest.mark.parametrize(("made", "field", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_fail_every_attempt_is_refused_at_once(
    authority: Authority, made: Callable[[Authority, str, str], tuple[str, str]], field: str, why: str
) -> None:
    certificate, key = made(authority, *authority.client("us", at=NOW))
    with pytest.raises(InvalidField, match=why) as raised:
        ClientIdentity.parse(certificate, key, NOW)
    assert raised.value.field == field
    # The message tells nothing of a key.
    assert "-----BEGIN P" not in raised.value.detail.replace("-----BEGIN PRIVATE KEY-----", "")


def test_a_certificate_signed_with_a_broken_hash_is_refused(authority: Authority) -> None:
    _, key = authority.client("us", at=NOW)
    with pytest.raises(InvalidField, match="sha1"):
        ClientIdentity.parse(SHA1_CERTIFICATE, key, datetime(2030, 1, 1, tzinfo=UTC))


def test_a_curve_is_as_good_as_a_large_rsa_key(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    certificate, written = authority.client("us", at=NOW, key=key)
    assert ClientIdentity.parse(certificate, written, NOW).key == written


def test_an_rsa_key_is_taken_as_it_is(authority: Authority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate, written = authority.client("us", at=NOW, key=key)
    assert ClientIdentity.parse(certificate, written, NOW).key == written


def of_primes(p: int, q: int, **other: int) -> str:
    """An RSA key of these primes, with numbers of it changed."""
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    made = {"d": d, "dmp1": d % (p - 1), "dmq1": d % (q - 1), "iqmp": pow(q, -1, p)} | other
    numbers = [0, p * q, e, made["d"], p, q, made["dmp1"], made["dmq1"], made["iqmp"]]
    der = der_of(0x30, b"".join(der_of(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in numbers))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END RSA PRIVATE KEY-----\n"


def der_of(tag: int, content: bytes) -> bytes:
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    head = bytes([tag, len(content)]) if len(content) < 128 else bytes([tag, 0x80 | len(length)]) + length
    return head + content


def test_a_key_of_many_bits_costs_its_sender_more_than_us(authority: Authority) -> None:
    certificate, _ = authority.client("us", at=NOW)
    # Two primes that everybody knows. To find that they are takes minutes.
    key = of_primes(2**9689 - 1, 2**11213 - 1)
    assert len(key) < LONGEST
    with pytest.raises(InvalidField, match="client_key: has 20902 bits"):
        ClientIdentity.parse(certificate, key, NOW)


@pytest.mark.parametrize(
    "changed",
    [{}, {"dmp1": 2**100_000 - 1}, {"dmq1": 1}, {"d": 2**4000}, {"d": 5}, {"iqmp": 1}],
    ids=lambda changed: "".join(changed) or "none",
)
def test_numbers_of_an_rsa_key_that_are_not_each_others_are_refused(
    authority: Authority, changed: dict[str, int]
) -> None:
    certificate, _ = authority.client("us", at=NOW)
    key = of_primes(2**1279 - 1, 2**2203 - 1, **changed)
    # Whole, it is not this certificate's.
    with pytest.raises(InvalidField, match="do not go together" if changed else "does not belong"):
        ClientIdentity.parse(certificate, key, NOW)


UNREADABLE = {
    "a subject": ("0c027573", "0c02fffe"),
    "a kind of key": ("06072a8648ce3d0201", "06072a8648ce3d0271"),
    "a curve": ("06082a8648ce3d030107", "06082a8648ce3d030177"),
    "a signature": ("06082a8648ce3d040302", "06082a8648ce3d040372"),
    "an extension": ("300a06082b06010505070302", "040a06082b06010505070302"),
    "an extension that is there twice": ("0603551d23", "0603551d11"),
}


@pytest.mark.parametrize(("read", "other"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_certificate_with_parts_that_nobody_can_read_is_refused(authority: Authority, read: str, other: str) -> None:
    certificate, key = authority.client("us", at=NOW)
    der = ssl.PEM_cert_to_DER_cert(certificate)
    assert bytes.fromhex(read) in der
    changed = ssl.DER_cert_to_PEM_cert(der.replace(bytes.fromhex(read), bytes.fromhex(other)))
    with pytest.raises(InvalidField, match="client_certificate: has parts that cannot be read"):
        ClientIdentity.parse(changed, key, NOW)


#: What no library issues any more: of `openssl req -x509 -sha1 -days 36500`.
SHA1_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBcjCCARigAwIBAgIUNofdH4q3VN9YYu9u0KOHZqQFovAwCQYHKoZIzj0EATAO
MQwwCgYDVQQDDANvbGQwIBcNMjYxMTIyMDEyNTQ1WhgPMjEyNjEwMjkwMTI1NDVa
MA4xDDAKBgNVBAMMA29sZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPu9U03l
Mjic4PieumQoyrwCW2GbzeOL8jFb47Jkxxc230GM1T3+BEz0KXvmGmcvqUpcnNaO
GD/atFUlzlRluJOjUzBRMB0GA1UdDgQWBBRw/XXUYogZS0AQoYVSBzrcxFc4MTAf
BgNVHSMEGDAWgBRw/XXUYogZS0AQoYVSBzrcxFc4MTAPBgNVHRMBAf8EBTADAQH/
MAkGByqGSM49BAEDSQAwRgIhAO7j+/A6YyRuMhpN+77Fz5iKgIOxmYyVsyE8nMdI
8efkAiEA3VXjdP0wMO/6JC27pAcahm11vrnrMUGfEGGglPzlFsg=
-----END CERTIFICATE-----
"""
