"""TLS of deliveries: whom we believe, what we accept, and who we say we are where a receiver asks for it."""

import os
import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from dispatcher.errors import InvalidSettings
from dispatcher.rules.client_identity import ClientIdentity

#: Gives the context of a connection, made when one is first needed: reading the authorities takes milliseconds.
Contexts = Callable[[], ssl.SSLContext]


class Trust:
    """The authorities that receivers' certificates are checked with: the system's, and those of `ca_file` beside them.

    Raises `InvalidSettings` where that file holds none.
    """

    def __init__(self, ca_file: Path | None) -> None:
        # Once: what becomes of the file later must not part those who show a certificate from the others.
        self._authorities = None if ca_file is None else _read(ca_file)
        self._own = None if self._authorities is None else _with(self._authorities)

    def context(self) -> ssl.SSLContext:
        """For connections that show no certificate."""
        return self._own or _of_the_system()

    def context_for(self, identity: ClientIdentity) -> ssl.SSLContext:
        """For connections that show this one. Takes long, so let a thread do it. Raises `ssl.SSLError`."""
        context = _new() if self._authorities is None else _with(self._authorities)
        _load(context, identity)
        return context


def _new() -> ssl.SSLContext:
    # The defaults of a client: certificates are required, and have to be the host's.
    context = ssl.create_default_context()
    # Said here, since a machine's configuration of OpenSSL may lower it.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@cache
def _of_the_system() -> ssl.SSLContext:
    return _new()


def _read(ca_file: Path) -> str:
    try:
        # What is not ASCII are notes between the certificates.
        text = ca_file.read_bytes().decode("ascii", "ignore")
        ssl.create_default_context(cadata=text or "none")
    except OSError as error:
        # An SSLError is one, too.
        why = "holds no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidSettings(f"DISPATCHER_CA_FILE: {ca_file}: {why}; name a file of certificates in PEM") from None
    return text


def _with(authorities: str) -> ssl.SSLContext:
    context = _new()
    context.load_verify_locations(cadata=authorities)
    return context


def _load(context: ssl.SSLContext, identity: ClientIdentity) -> None:
    pem = (identity.key + identity.certificate).encode()
    # The ssl module reads files only. This one has no name and no disk, where the system has such files.
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("client identity")
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
        finally:
            os.close(descriptor)
        return
    with NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name, password=_no_password)


def _no_password() -> str:
    # Without it OpenSSL would ask on the terminal.
    return ""
