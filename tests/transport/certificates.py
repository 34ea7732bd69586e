"""Certificates made for a test: an authority of its own, and what it vouches for."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that nobody trusts who is not told to."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, directory: Path) -> "Authority":
        """A new one, in a directory of its own; its certificate is the file `trusted`."""
        directory.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(_named("tests"), _named("tests"), key.public_key(), 1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        made = cls(directory, key, certificate)
        made.trusted.write_bytes(certificate.public_bytes(Encoding.PEM))
        return made

    @property
    def trusted(self) -> Path:
        return self.directory / "authority.pem"

    def server(self, host: str, *, days: float = 1) -> ssl.SSLContext:
        """The TLS of a server at an address or a name, with a certificate for two days that ends in `days`."""
        certificate, key = self._issue(host, days=days)
        return server_of(self.directory, certificate, key)

    def asking(self, host: str, *, of: "Authority | None" = None, required: bool = True) -> ssl.SSLContext:
        """As `server`, and it asks for a certificate that `of` (else this one) vouches for."""
        context = self.server(host)
        context.load_verify_locations((of or self).trusted)
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        return context

    def client(
        self,
        name: str,
        *,
        at: datetime | None = None,
        days: float = 1,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        key: Key | None = None,
    ) -> tuple[str, str]:
        """The certificate of a client and its key, both PEM; it is for two days, and ends in `days` from `at` on."""
        certificate, key = self._issue(name, at=at, days=days, usage=usage, key=key)
        return certificate, pem_of(key)

    def _issue(
        self,
        name: str,
        *,
        days: float,
        at: datetime | None = None,
        usage: x509.ObjectIdentifier | None = None,
        key: Key | None = None,
    ) -> tuple[str, Key]:
        key = key or ec.generate_private_key(ec.SECP256R1())
        end = (at or datetime.now(UTC)) + timedelta(days=days)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder(
                self.certificate.subject, _named(name), key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(end - timedelta(days=2))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([_alternative(name)]), critical=False)
            .add_extension(issuer, critical=False)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode(), key


def self_signed(directory: Path, host: str) -> ssl.SSLContext:
    """The TLS of a server that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(_named(host), _named(host), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return server_of(directory, certificate.public_bytes(Encoding.PEM).decode(), key)


def server_of(directory: Path, certificate: str, key: Key) -> ssl.SSLContext:
    file = directory / "server.pem"
    file.write_text(pem_of(key) + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def pem_of(key: Key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
