"""Addresses that are no strangers' servers: the IANA special-purpose registries, clouds' metadata, and IPv4 in IPv6.

The registries are written out (as of 2025-10), since the answers of `ipaddress.is_global` changed between patch
releases of Python. Blocks that they call reachable but where no web server lives (AS112, AMT, anycast relays) are here
too. What is neither here nor global unicast is refused as well, so a block that is new to them is refused.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

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
_SPECIAL_V6 = tuple(
    (IPv6Network(network), words)
    for network, words in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard"),
        ("100:0:0:1::/64", "a dummy prefix"),
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
#: Credentials of the machine for whoever reaches them.
METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",  # AWS, Google Cloud, Azure, Oracle, DigitalOcean, Hetzner, OpenStack
        "169.254.169.253",  # AWS, its name server
        "169.254.169.123",  # AWS, its time server
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server, in a public block
        "192.0.0.192",  # Oracle, older
        "fd00:ec2::254",  # AWS
        "fd00:ec2::253",  # AWS, its name server
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google Cloud
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
    )
)
V4_MAPPED = IPv6Network("::ffff:0:0/96")
NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_V4_COMPATIBLE = IPv6Network("::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_ISATAP_IDENTIFIERS = (0x0000_5EFE, 0x0200_5EFE)


def special(address: IPv4Address | IPv6Address) -> str | None:
    """Why no stranger's server is at that address, in a few words; None if one may be.

    Of an IPv6 address that carries an IPv4 address, `carried` says what else is to be asked for.
    """
    match address:
        case IPv4Address():
            return next((words for network, words in _SPECIAL_V4 if address in network), None)
        case IPv6Address():
            found = next((words for network, words in _SPECIAL_V6 if address in network), None)
            if found is None and address not in _GLOBAL_UNICAST_V6 and address not in NAT64:
                return "not global unicast"
            return found


def carried(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that traffic to it may end at: NAT64, v4-compatible, 6to4, Teredo and ISATAP."""
    number = int(address)
    last = IPv4Address(number & 0xFFFF_FFFF)
    if address in NAT64 or address in _NAT64_LOCAL or (address in _V4_COMPATIBLE and number > 1):
        yield last
    if address in _6TO4:
        yield IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if address in _TEREDO:
        yield IPv4Address(number >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(number & 0xFFFF_FFFF ^ 0xFFFF_FFFF)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        yield last


def translated(address: IPv6Address, prefix: IPv6Network) -> IPv4Address:
    """The IPv4 address that a NAT64 translator makes of one in its prefix, of 32, 40, 48, 56, 64 or 96 bits."""
    octets = address.packed
    begin = prefix.prefixlen // 8
    # Bits 64 to 71 belong to no part of it (RFC 6052, 2.2).
    behind = [octet for place, octet in enumerate(octets) if place >= begin and (place != 8 or begin == 12)]
    return IPv4Address(bytes(behind[:4]))
