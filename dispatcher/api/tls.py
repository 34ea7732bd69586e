"""TLS for the API without a proxy: a certificate from files, renewed while it serves when the files are."""

import asyncio
import ssl
from pathlib import Path

from dispatcher.errors import ConfigurationError
from dispatcher.logs import logger

#: How often the files are looked at, in seconds.
LOOK_EVERY_S = 60.0

_log = logger(__name__)


class ServerTls:
    """The TLS of a server: from TLS 1.2 on, and with the newest certificate for each connection that begins."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """`key` null: it is in the certificate's file. Raises `ConfigurationError` for files that do not serve."""
        self._certificate = certificate
        self._key = key
        self.context = _context()
        try:
            self._files = self._stamp()
            self.context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"DISPATCHER_TLS_CERT, DISPATCHER_TLS_KEY: {self._refusal(error)}") from error

    async def keep_fresh(self) -> None:
        """Looks at the files every `LOOK_EVERY_S` seconds, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.renew()

    def renew(self) -> None:
        """Takes the files' certificate, if they have changed; one that does not serve leaves the one before in use."""
        try:
            files = self._stamp()
            if files == self._files:
                return
            # Tried apart first: half of a new pair would end every connection that begins.
            _context().load_cert_chain(self._certificate, self._key, password=_no_password)
            self.context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            _log.error("tls.not_renewed", error=self._refusal(error))
            return
        self._files = files
        _log.info("tls.renewed", certificate=str(self._certificate))

    def _stamp(self) -> list[tuple[int, int, int]]:
        files = [self._certificate] if self._key is None else [self._certificate, self._key]
        return [(found.st_mtime_ns, found.st_size, found.st_ino) for found in (file.stat() for file in files)]

    def _refusal(self, error: Exception) -> str:
        names = " and ".join(str(file) for file in (self._certificate, self._key) if file)
        if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
            why = getattr(error, "reason", None) or error
            return f"{names} do not hold a certificate in PEM with its private key, unencrypted ({why})"
        # OpenSSL does not say which of them it could not read.
        return f"{error.filename or names}: {error.strerror}"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    # Else OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted")
