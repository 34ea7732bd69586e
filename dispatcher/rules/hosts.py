"""Host names: lists of them, as operators write them, and names that are never a stranger's server."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from dispatcher.errors import InvalidSettings

_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.tencentyun.com",
        "metadata.oraclecloud.com",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "rancher-metadata",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
#: Below these there are private networks only (RFC 6762, 7686, 8375, and what ICANN keeps free).
_PRIVATE_SUFFIXES = (".local", ".internal", ".home.arpa", ".localdomain", ".lan", ".intranet", ".onion")


@dataclass(frozen=True, slots=True)
class Hosts:
    """A list of hosts: names, `*.suffix` (any depth below it, not itself), addresses and networks."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str], setting: str) -> "Hosts":
        """Reads a setting's entries. Raises `InvalidSettings` that names the setting and the entry."""
        names, suffixes, networks = set[str](), [], []
        for entry in entries:
            text = entry.lower()
            try:
                networks.append(ip_network(text.strip("[]")))
                continue
            except ValueError:
                pass
            if not _NAME.fullmatch(text) or "/" in text:
                raise InvalidSettings(
                    f"{setting}: {entry!r} is no host; write names like hooks.example.com, *.example.com for all below"
                    " it, and addresses or networks like 192.0.2.0/24"
                )
            if text.startswith("*."):
                suffixes.append(text[1:])
            else:
                names.add(text)
        return cls(frozenset(names), tuple(suffixes), tuple(networks))

    def __bool__(self) -> bool:
        return bool(self.names or self.suffixes or self.networks)

    def __contains__(self, host: str) -> bool:
        """Whether a host is in the list, as a URL has it: lower case, an IPv6 address without brackets."""
        if host in self.names or host.endswith(self.suffixes):
            return True
        address = literal(host) if self.networks else None
        return address is not None and any(address in network for network in self.networks)


NO_HOSTS = Hosts()


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is; None if it is a name."""
    # Names are asked about more often, and none begins like an address.
    if not host[:1].isdigit() and ":" not in host:
        return None
    try:
        return ip_address(host)
    except ValueError:
        return None


def private_name(host: str) -> bool:
    """Whether only a private network resolves the name."""
    return "." not in host or host.endswith(_PRIVATE_SUFFIXES)


def loopback_name(host: str) -> bool:
    """Whether the name is this machine's own."""
    return host in LOOPBACK_NAMES or host.endswith(".localhost")
