"""Callback URLs: vetted once, then kept and used byte for byte, and shown without what is secret in them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote_to_bytes, urlsplit

import yarl

from dispatcher.errors import InvalidField
from dispatcher.rules import idna_names
from dispatcher.rules.egress import EgressRules

LONGEST = 2048

_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?")
_NOT_OF_A_URI = re.compile(r"[^A-Za-z0-9._~:/?@!$&'()*+,;=%-]|%(?![0-9A-Fa-f]{2})")
_AUTHORITY = re.compile(r"(?:(?P<userinfo>[^@]*)@)?(?P<host>\[[^\[\]@]*\]|[^\[\]@:]*)(?::(?P<port>[^@]*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True, repr=False)
class CallbackUrl:
    """A URL that events may be sent to."""

    #: As given, secrets included.
    text: str
    #: `http` or `https`.
    scheme: str
    #: Lower-case name or address, without brackets.
    host: str
    port: int
    #: As it may be shown: password and query values are `***`.
    shown: str
    #: `scheme://host:port`, what connections are shared and counted by.
    destination: str

    @classmethod
    def parse(cls, text: str, rules: EgressRules) -> "CallbackUrl":
        """The vetted URL; no name is resolved. Raises `InvalidField("url", …)` that says what would be accepted."""
        parts = _parts(text)
        scheme = _check_scheme(parts["scheme"].lower(), rules)
        _check_encoded(parts, rules)
        authority = _AUTHORITY.fullmatch(parts["authority"])
        if authority is None:
            raise _refused("has more than one @ or [ before its path; percent-encode those of a password")
        _check_userinfo(authority["userinfo"])
        host = _check_host(authority["host"].lower())
        port = _check_port(authority["port"], scheme)
        _check_readings_agree(text, host, port)
        _check_target(scheme, host, port, rules)
        return cls(
            text=text,
            scheme=scheme,
            host=host,
            port=port,
            shown=_shown(parts, authority["userinfo"], parts["authority"].rpartition("@")[2], _masked),
            destination=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}",
        )

    def __repr__(self) -> str:
        return f"CallbackUrl({self.shown!r})"


def _refused(detail: str) -> InvalidField:
    return InvalidField("url", detail)


def _parts(text: str) -> re.Match[str]:
    if not 0 < len(text) <= LONGEST:
        raise _refused(f"has {len(text)} characters, and must have 1 to {LONGEST}")
    if _CONTROL.search(text):
        raise _refused("contains a control character; remove it, or percent-encode it")
    if text != text.strip():
        raise _refused("begins or ends with white space; remove it")
    if "#" in text:
        raise _refused("has a fragment, which is never sent; remove the # and what follows, or write # as %23")
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise _refused("is no absolute URL; write it like https://example.com/hook")
    return parts


def _check_scheme(scheme: str, rules: EgressRules) -> str:
    if scheme not in _PORTS:
        wanted = "https: or http:" if rules.allow_http else "https:"
        raise _refused(f"must begin with {wanted}, not {scheme[:20]}:")
    if scheme == "http" and not rules.allow_http:
        raise _refused("must begin with https:; the operator can allow http: with DISPATCHER_ALLOW_HTTP=true")
    return scheme


def _check_encoded(parts: re.Match[str], rules: EgressRules) -> None:
    if not _NOT_OF_A_URI.search(re.sub(r"[\[\]]", "", parts["authority"]) + parts["path"] + (parts["query"] or "")):
        return
    if "\\" in parts["authority"]:
        raise _refused("has a backslash before its path, which programs read in different ways; write /")
    userinfo, at, hostport = parts["authority"].rpartition("@")
    host, colon, port = hostport.rpartition(":") if re.search(r":[0-9]*$", hostport) else (hostport, "", "")
    encoded = host if host.isascii() else idna_names.to_ascii(host)
    if encoded is None or _NOT_OF_A_URI.search(re.sub(r"[\[\]]", "", encoded)):
        raise _refused("has characters in its host that no host name has; write an ASCII name (IDNA)")
    if encoded != host:
        # What it stands for may be refused: nobody should be told to send that.
        scheme = parts["scheme"].lower()
        _check_target(scheme, _check_host(encoded.lower()), _check_port(port if colon else None, scheme), rules)
    shown = _shown(parts, userinfo if at else None, encoded + colon + port, _encoded_or_masked)
    masked = " (*** stands for what is secret)" if "***" in shown else ""
    raise _refused(f"must be ASCII, with everything else percent-encoded; send it as {shown}{masked}")


def _check_userinfo(userinfo: str | None) -> None:
    if userinfo is None:
        return
    user, _, password = userinfo.partition(":")
    try:
        decoded = [unquote_to_bytes(part).decode() for part in (user, password)]
    except UnicodeDecodeError:
        raise _refused("has a user or password that is no percent-encoded UTF-8") from None
    if not user or ":" in decoded[0]:
        raise _refused("needs a user without a colon before its password, like https://user:password@example.com/")
    # What the client cannot write as basic auth would fail every attempt.
    if any(ord(character) > 0xFF for part in decoded for character in part):
        raise _refused("has characters beyond Latin-1 in its user or password, which basic auth cannot carry")
    if any(_CONTROL.search(part) for part in decoded):
        raise _refused("has a control character in its user or password; basic auth cannot carry it")


def _check_host(host: str) -> str:
    if host.startswith("["):
        return _check_address(host[1:-1], IPv6Address)
    if not host:
        raise _refused("has no host; write it like https://example.com/hook")
    if "%" in host:
        raise _refused("has a percent-encoded host; write the name itself")
    if host.endswith("."):
        raise _refused("has a host that ends in a dot; leave it out")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("has a host that is no DNS name")
    if _NUMBER.fullmatch(labels[-1]):
        return _check_address(host, IPv4Address)
    if not idna_names.is_name(host):
        raise _refused("has a host with a label xn--… that stands for no name; write what IDNA makes of the name")
    return host


def _check_address(text: str, notation: type[IPv4Address | IPv6Address]) -> str:
    if "%" in text and ":" in text:
        raise _refused("has an address with a zone id; write an address that is reachable from anywhere")
    try:
        return str(notation(text))
    except ValueError:
        raise _refused(
            "has a numeric host that is no IP address in its usual form; write it like 192.0.2.1 or [2001:db8::1]"
        ) from None


def _check_port(text: str | None, scheme: str) -> int:
    if text is None:
        return _PORTS[scheme]
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise _refused("has a port that is no number from 1 to 65535; write it like :8443, or leave out the colon")
    return int(text)


def _check_target(scheme: str, host: str, port: int, rules: EgressRules) -> None:
    refusal = rules.target_refusal(scheme, host, port)
    if refusal is not None:
        raise _refused(f"must not go to {host}: {refusal}")


def _check_readings_agree(text: str, host: str, port: int) -> None:
    # Where two parsers see two hosts, one of them vets and the other one connects.
    try:
        split, url = urlsplit(text), yarl.URL(text, encoded=True)
        hosts = {_normal(split.hostname or ""), _normal((url.raw_host or "").lower())}
        ports = {split.port or _PORTS[split.scheme], url.port}
    except ValueError:
        raise _refused("is read differently by different programs; write it like https://example.com/hook") from None
    if hosts != {host} or ports != {port}:
        raise _refused("is read differently by different programs; write it like https://example.com/hook")


def _normal(host: str) -> str:
    return str(IPv6Address(host)) if ":" in host else host


def _shown(parts: re.Match[str], userinfo: str | None, hostport: str, value_shown: Callable[[str], str]) -> str:
    if userinfo is None:
        user = ""
    elif ":" in userinfo:
        user = f"{_encode(userinfo.partition(':')[0])}:***@"
    else:
        # A user alone is usually a token.
        user = "***@"
    query = ""
    if parts["query"] is not None:
        query = "?" + "&".join(_shown_pair(pair, value_shown) for pair in parts["query"].split("&"))
    return f"{parts['scheme']}://{user}{hostport}{_encode(parts['path'])}{query}"


def _shown_pair(pair: str, value_shown: Callable[[str], str]) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return value_shown(name) if name else ""
    return f"{_encode(name)}={value_shown(value)}"


def _masked(value: str) -> str:
    return "***"


def _encoded_or_masked(value: str) -> str:
    # What was refused is shown as it should be; everything else in a query stays secret.
    return _encode(value) if _NOT_OF_A_URI.search(value) else "***"


def _encode(text: str) -> str:
    return _NOT_OF_A_URI.sub(lambda found: quote(found[0], safe="", errors="replace"), text)
