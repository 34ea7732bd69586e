"""The egress guard's rules: to which addresses and ports a delivery may go at all.

Applied to literal addresses at registration and to every address at connect time, whatever DNS said before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Written out from the IANA special-purpose registries (2025-10), since the answers of `ipaddress.is_global` changed
# between patch releases of Python. Blocks that the registries call reachable but where no web server lives
# (AS112, AMT, anycast relays) are refused too.
_SPECIAL_V4 = tuple(
    (IPv4Network(network), words)
    for network, words in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "a private network"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "a private network"),
        ("192.0.0.0/24", "IETF protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private network"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_V4_MAPPED = IPv6Network("::ffff:0:0/96")
_V4_COMPATIBLE = IPv6Network("::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    (IPv6Network(network), words)
    for network, words in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard"),
        ("2001::/23", "IETF protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "reserved"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "a private network"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",  # AWS, Google Cloud, Azure, Oracle, DigitalOcean, Hetzner, OpenStack
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server, in a public block
        "192.0.0.192",  # Oracle, older
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google Cloud
        "fd00:42::42",  # Scaleway
    )
)
_ISATAP_IDENTIFIERS = (0x0000_5EFE, 0x0200_5EFE)

# Services that listen above 1023, take commands from whoever reaches them, and are never a webhook's receiver.
_SERVICE_PORTS = {
    1433: "SQL Server",
    1521: "Oracle",
    2049: "NFS",
    2181: "ZooKeeper",
    2375: "Docker",
    2376: "Docker",
    2379: "etcd",
    2380: "etcd",
    3306: "MySQL",
    3389: "RDP",
    5432: "PostgreSQL",
    5672: "AMQP",
    5900: "VNC",
    5984: "CouchDB",
    6000: "X11",
    6379: "Redis",
    6443: "Kubernetes",
    9042: "Cassandra",
    9092: "Kafka",
    9200: "Elasticsearch",
    9300: "Elasticsearch",
    10250: "Kubernetes",
    10255: "Kubernetes",
    11211: "memcached",
    27017: "MongoDB",
}


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What the settings allow beyond https to public addresses."""

    allow_http: bool
    allow_networks: tuple[IPv4Network | IPv6Network, ...]

    def refusal(self, address: str) -> str | None:
        """None if a connection to the address may be opened, else why not, in a few words.

        `allow_networks` lifts a refusal; for a cloud's metadata service only an entry for that very address does,
        since whoever allows `10.0.0.0/8,fd00::/8` does not mean the machine's credentials. An IPv4 address inside an
        IPv6 one (NAT64, 6to4, …) is judged as well.
        """
        try:
            parsed = ip_address(address)
        except ValueError:
            return "not an IP address"
        match parsed:
            case IPv4Address():
                return self._refusal_v4(parsed)
            case IPv6Address():
                return self._refusal_v6(parsed)

    def _refusal_v4(self, address: IPv4Address) -> str | None:
        if address in _METADATA:
            return None if self._names(address) else "a cloud's metadata service"
        if self._allows(address):
            return None
        return next((words for network, words in _SPECIAL_V4 if address in network), None)

    def _refusal_v6(self, address: IPv6Address) -> str | None:
        if address.scope_id is not None:
            return "an address with a zone id"
        if address in _METADATA:
            return None if self._names(address) else "a cloud's metadata service"
        if address in _V4_MAPPED:
            # Connecting to it is connecting to the IPv4 address: the same thing in another notation.
            return self._refusal_v4(IPv4Address(int(address) & 0xFFFF_FFFF))
        if not self._allows(address):
            special = next((words for network, words in _SPECIAL_V6 if address in network), None)
            if special is not None:
                return special
            if address not in _GLOBAL_UNICAST_V6 and address not in _NAT64:
                return "not global unicast"
        for inner in _inner_v4(address):
            refused = self._refusal_v4(inner)
            if refused is not None:
                return f"{refused}, by way of {inner}"
        return None

    def _allows(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self.allow_networks)

    def _names(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network and network.num_addresses == 1 for network in self.allow_networks)


def port_refusal(port: int) -> str | None:
    """None if callback URLs may name the port, else why not: 80, 443 and 1024–65535 without well-known services."""
    if port in (80, 443):
        return None
    if not 1024 <= port <= 65535:
        return "only 80, 443 and 1024 to 65535 are allowed"
    service = _SERVICE_PORTS.get(port)
    return None if service is None else f"it belongs to {service}"


def _inner_v4(address: IPv6Address) -> Iterator[IPv4Address]:
    number = int(address)
    last = IPv4Address(number & 0xFFFF_FFFF)
    if address in _NAT64 or address in _NAT64_LOCAL or (address in _V4_COMPATIBLE and number > 1):
        yield last
    if address in _6TO4:
        yield IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if address in _TEREDO:
        yield IPv4Address(number >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(number & 0xFFFF_FFFF ^ 0xFFFF_FFFF)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        yield last
