"""From where a request comes: the peer of its connection, or whom a proxy that is trusted names."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

#: What one customer of a network has of it: whoever has one address there has all of them.
_IPV6_PREFIX = 64
UNKNOWN = "unknown"


def client_address(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """The address that a request is counted under; of IPv6 its /64 network.

    `forwarded_for` are the values of `X-Forwarded-For`. Each proxy adds whom it was called by at the end, so they are
    read from there, for as long as the one who says so is `trusted`; what stands before that anybody may have written.
    """
    address = _read(peer or "")
    for hop in _from_the_end(forwarded_for):
        if address is None or not _is_within(address, trusted) or (named := _read(hop.strip())) is None:
            break
        address = named
    if address is None:
        return UNKNOWN
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)


def _from_the_end(forwarded_for: Sequence[str]) -> Iterator[str]:
    """What proxies added, the last first; no more of it is read than is asked for, since anybody may send much."""
    for value in reversed(forwarded_for):
        comma = ","
        while comma:
            value, comma, hop = value.rpartition(",")
            yield hop


def _is_within(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)


def _read(text: str) -> IPv4Address | IPv6Address | None:
    """An address, as proxies write it: bare, with a port, in brackets."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
