"""The egress proxy: where it is, and what it is told."""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from dispatcher.errors import InvalidSettings

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HOST = re.compile(r"[a-z0-9._:-]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that makes tunnels by HTTP CONNECT."""

    host: str
    port: int
    #: `Proxy-Authorization`, where it wants a user and a password.
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Proxy":
        """Reads `http://user:password@host:port`. Raises `InvalidSettings`, which shows no password."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port or 0
        except ValueError:
            parts, host, port = urlsplit(""), "", 0
        rest = parts.path.strip("/") + parts.query + parts.fragment
        if parts.scheme != "http" or not port or rest or not _HOST.fullmatch(host):
            raise InvalidSettings(
                "DISPATCHER_PROXY is no proxy that can be used; write it like http://proxy.example.com:3128 or"
                " http://user:password@proxy.example.com:3128 (percent-encode what is special in the password)"
            )
        if parts.username is None:
            return cls(host, port)
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        return cls(host, port, f"Basic {b64encode(credentials).decode()}")

    @property
    def shown(self) -> str:
        """Without its password."""
        return f"http://{_in_url(self.host)}:{self.port}"

    def asks(self, host: str, port: int) -> bytes:
        """The request for a tunnel to a host and port."""
        target = f"{_in_url(host)}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def answered(head: bytes) -> int | None:
    """The status of a proxy's answer, of which this is the head; None if it is no HTTP."""
    found = _STATUS.fullmatch(head.partition(b"\r\n")[0])
    return None if found is None else int(found[1])


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
