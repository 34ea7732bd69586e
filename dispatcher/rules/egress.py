"""The egress guard's rules: to which hosts, addresses and ports a delivery may go at all.

Applied to what a URL says at registration, to the same again when it is sent to, and to every address at connect time,
whatever DNS said before. What is denied stays denied, whatever else allows it; what is allowed by name or network
is allowed though it is not public.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from dispatcher.rules import ports
from dispatcher.rules.hosts import METADATA_NAMES, NO_HOSTS, Hosts, literal, loopback_name, private_name
from dispatcher.rules.proxy import Proxy
from dispatcher.rules.special_addresses import METADATA, V4_MAPPED, carried, special, translated
from dispatcher.units import format_ports

Network = IPv4Network | IPv6Network

#: The remedy where there is none.
NEVER = "no setting allows it"


class Refusal(NamedTuple):
    """Which rule refuses, and how an operator may allow it."""

    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.why}; {self.remedy}"


def _with(setting: str) -> str:
    return f"the operator can allow it with {setting}"


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What the settings allow and deny beyond https to public addresses, and by which way requests leave."""

    allow_http: bool
    allow_networks: tuple[Network, ...]
    deny_networks: tuple[Network, ...] = ()
    #: Where it names any, no other host is sent to.
    allow_hosts: Hosts = NO_HOSTS
    allow_ports: tuple[tuple[int, int], ...] = ports.USUAL
    #: None: those of well-known services.
    deny_ports: tuple[tuple[int, int], ...] | None = None
    #: Prefixes (of 32, 40, 48, 56, 64 or 96 bits) by which this network reaches IPv4, beside 64:ff9b::/96.
    nat64_prefixes: tuple[IPv6Network, ...] = ()
    #: Where this deployment itself listens, on this machine.
    own_ports: frozenset[int] = frozenset()
    #: What it uses and nobody else should, its database and its proxy: name or address, and port.
    own_services: frozenset[tuple[str, int]] = frozenset()
    #: Ports of databases known by name only, so that any address that is not public may be theirs.
    unlocated_ports: frozenset[int] = frozenset()
    #: None: connections are made directly.
    proxy: Proxy | None = None
    #: What is connected to directly though there is a proxy.
    no_proxy: Hosts = NO_HOSTS

    def target_refusal(self, scheme: str, host: str, port: int) -> Refusal | None:
        """None if a URL's scheme, host (lower case, without brackets) and port may be sent to, as far as can be said
        without asking a name server.
        """
        if scheme != "https" and not (scheme == "http" and self.allow_http):
            return Refusal(f"{scheme}: is not allowed", _with("DISPATCHER_ALLOW_HTTP=true"))
        address = literal(host)
        if address is not None:
            return self.host_refusal(host) or self.connection_refusal(str(address), port)
        return self.port_refusal(port) or self.host_refusal(host) or self._own_by_name(host, port)

    def connection_refusal(self, address: str, port: int) -> Refusal | None:
        """None if a connection may be opened to this address and port."""
        refused = self.port_refusal(port) or self.refusal(address)
        if refused is not None:
            return refused
        reached = list(self._reached(_unmapped(ip_address(address))))
        # To connect to 0.0.0.0 or :: is to connect to this machine.
        if port in self.own_ports and any(each.is_loopback or each.is_unspecified for each in reached):
            return own_port(port)
        if any((str(each), port) in self.own_services for each in reached):
            return _own_service(address, port)
        if port in self.unlocated_ports and any(special(each) is not None for each in reached):
            return Refusal(
                f"port {port} there may be the dispatcher's own database",
                "the operator can allow it by writing the database's address in DISPATCHER_DATABASE_URL, not its name",
            )
        return None

    def port_refusal(self, port: int) -> Refusal | None:
        """None if callback URLs may name the port."""
        if ports.outside(port, self.allow_ports):
            remedy = _with("DISPATCHER_ALLOW_PORTS")
            return Refusal(f"port {port} is not allowed (allowed are {format_ports(self.allow_ports)})", remedy)
        if self.deny_ports is not None:
            if ports.outside(port, self.deny_ports):
                return None
            return Refusal(f"port {port} is denied", "the operator denies it with DISPATCHER_DENY_PORTS")
        service = ports.SERVICES.get(port)
        if service is None:
            return None
        return Refusal(
            f"port {port} is not allowed (it belongs to {service})",
            "the operator can allow it by giving other ports in DISPATCHER_DENY_PORTS",
        )

    def host_refusal(self, host: str) -> Refusal | None:
        """None if a host, a name or an address as a URL has it, is none that is refused whatever it resolves to."""
        if self.allow_hosts and host not in self.allow_hosts:
            return Refusal(f"{host} is not among the hosts that are allowed", _with("DISPATCHER_ALLOW_HOSTS"))
        name = host.rstrip(".")
        if name in METADATA_NAMES and name not in self.allow_hosts.names:
            # Naming it there refuses all hosts that are not.
            remedy = (
                "the operator can allow it by listing it in DISPATCHER_ALLOW_HOSTS, with all others that are sent to"
            )
            return Refusal(f"{host} is a cloud's metadata service", remedy)
        if loopback_name(name):
            if self.refusal("127.0.0.1") is not None and self.refusal("::1") is not None:
                return Refusal(f"{host} is this machine itself", _with("DISPATCHER_ALLOW_NETWORKS=127.0.0.0/8,::1/128"))
        elif literal(name) is None and private_name(name) and not self.allow_networks:
            return Refusal(
                f"{host} is a name that only a private network resolves",
                "write the whole public name, or let the operator allow the network with DISPATCHER_ALLOW_NETWORKS",
            )
        return None

    def refusal(self, address: str) -> Refusal | None:
        """None if an address may be connected to, on a port that may be.

        `deny_networks` goes before everything. `allow_networks` lifts what else refuses; for a cloud's metadata service
        only an entry for that very address does, since whoever allows `10.0.0.0/8,fd00::/8` does not mean the machine's
        credentials. An IPv4 address inside an IPv6 one (NAT64, 6to4, …) is judged as well.
        """
        try:
            parsed = ip_address(address)
        except ValueError:
            return Refusal("not an IP address", NEVER)
        if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
            return Refusal("an address with a zone id", NEVER)
        return self._refusal(_unmapped(parsed))

    def proxied(self, host: str) -> Proxy | None:
        """The proxy by which a host is reached, if it is by one."""
        if self.proxy is None or host.lower().rstrip(".") in self.no_proxy:
            return None
        return self.proxy

    def _refusal(self, address: IPv4Address | IPv6Address) -> Refusal | None:
        if any(address in network for network in self.deny_networks):
            return Refusal("a denied network", "the operator denies it with DISPATCHER_DENY_NETWORKS")
        if address in METADATA:
            if any(address in network and network.num_addresses == 1 for network in self.allow_networks):
                return None
            itself = f"{address}/{address.max_prefixlen}"
            return Refusal("a cloud's metadata service", _with(f"DISPATCHER_ALLOW_NETWORKS={itself}"))
        inner = self._inner(address)
        if any(address in prefix for prefix in self.nat64_prefixes):
            return self._by_way_of(inner)
        if not any(address in network for network in self.allow_networks):
            words = special(address)
            if words is not None:
                return Refusal(words, _with("DISPATCHER_ALLOW_NETWORKS"))
        return self._by_way_of(inner)

    def _inner(self, address: IPv4Address | IPv6Address) -> list[IPv4Address]:
        if isinstance(address, IPv4Address):
            return []
        for prefix in self.nat64_prefixes:
            if address in prefix:
                return [translated(address, prefix)]
        return list(carried(address))

    def _reached(self, address: IPv4Address | IPv6Address) -> Iterator[IPv4Address | IPv6Address]:
        yield address
        yield from self._inner(address)

    def _by_way_of(self, inner: list[IPv4Address]) -> Refusal | None:
        for address in inner:
            refused = self._refusal(address)
            if refused is not None:
                return refused._replace(why=f"{refused.why}, by way of {address}")
        return None

    def _own_by_name(self, host: str, port: int) -> Refusal | None:
        if (host, port) in self.own_services:
            return _own_service(host, port)
        if port in self.own_ports and loopback_name(host):
            return own_port(port)
        return None


def own_port(port: int) -> Refusal:
    """What is said of a port where the dispatcher itself, or what only it uses, listens on this machine."""
    return Refusal(f"port {port} of this machine is the dispatcher's own, its database's or its proxy's", NEVER)


def _own_service(host: str, port: int) -> Refusal:
    return Refusal(f"port {port} of {host} is the dispatcher's own database or proxy", NEVER)


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    # Connecting to a mapped one is connecting to the IPv4 address: the same thing in another notation.
    if isinstance(address, IPv6Address) and address in V4_MAPPED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
