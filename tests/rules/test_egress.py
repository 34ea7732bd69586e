"""The egress guard's rules: a corpus of addresses, in every notation that reaches a machine by another way."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidSettings
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.hosts import Hosts
from dispatcher.rules.proxy import Proxy

PUBLIC = """
1.1.1.1
8.8.8.8
9.255.255.255
11.0.0.0
93.184.216.34
100.63.255.255
100.128.0.0
126.255.255.255
128.0.0.0
169.253.255.255
169.255.0.0
172.15.255.255
172.32.0.0
191.255.255.255
192.0.1.0
192.0.3.0
192.167.255.255
192.169.0.0
198.17.255.255
198.20.0.0
203.0.112.255
203.0.114.0
223.255.255.255
2001:200::1
2001:4860:4860::8888
2606:4700:4700::1111
2600::1
2a00:1450:4001::200e
2a01:4f8::1
2400:cb00::1
::ffff:8.8.8.8
64:ff9b::8.8.8.8
64:ff9b::808:808
"""

REFUSED = """
0.0.0.0             this network
0.0.0.1             this network
10.0.0.1            private
10.255.255.255      private
100.64.0.1          carrier
100.127.255.255     carrier
127.0.0.1           loopback
127.255.255.255     loopback
169.254.0.1         link-local
169.254.255.255     link-local
172.16.0.1          private
172.31.255.255      private
192.0.0.1           IETF
192.0.0.9           IETF
192.0.0.170         IETF
192.0.2.1           documentation
192.31.196.1        AS112
192.52.193.1        AMT
192.88.99.1         6to4
192.168.0.1         private
192.168.255.255     private
192.175.48.1        AS112
198.18.0.1          benchmarking
198.19.255.255      benchmarking
198.51.100.1        documentation
203.0.113.1         documentation
224.0.0.1           multicast
239.255.255.255     multicast
240.0.0.1           reserved
255.255.255.255     reserved
169.254.169.254     metadata
169.254.170.2       metadata
169.254.170.23      metadata
100.100.100.200     metadata
168.63.129.16       metadata
192.0.0.192         metadata
fd00:ec2::254       metadata
fd00:ec2::23        metadata
fd20:ce::254        metadata
::                  unspecified
::1                 loopback
::2                 unicast
::127.0.0.1         unicast
::8.8.8.8           unicast
::ffff:127.0.0.1    loopback
::ffff:7f00:1       loopback
::ffff:10.0.0.1     private
::ffff:169.254.169.254  metadata
::ffff:0:127.0.0.1  unicast
64:ff9b::127.0.0.1  loopback, by way of 127.0.0.1
64:ff9b::a9fe:a9fe  metadata
64:ff9b::10.0.0.1   private
64:ff9b:0:1::1      unicast
64:ff9b:1::1        NAT64
64:ff9b:1::8.8.8.8  NAT64
100::1              discard
100:0:0:1::1        dummy
200::1              unicast
2001::1             IETF
2001:0:4136:e378:8000:63bf:3fff:fdd2  IETF
2001:1::1           IETF
2001:2::1           IETF
2001:3::1           IETF
2001:4:112::1       IETF
2001:10::1          IETF
2001:20::1          IETF
2001:30::1          IETF
2001:1ff:ffff::1    IETF
2001:db8::1         documentation
2001:db8:ffff::1    documentation
2002:7f00:1::1      6to4
2002:808:808::1     6to4
2620:4f:8000::1     AS112
3ffe::1             reserved
3fff::1             documentation
3fff:fff::1         documentation
4000::1             unicast
5f00::1             segment
8000::1             unicast
fc00::1             private
fd12:3456::1        private
fe80::1             link-local
febf::1             link-local
fec0::1             site-local
ff02::1             multicast
ff0e::1             multicast
2a01:4f8::5efe:127.0.0.1        loopback, by way of
2a01:4f8::200:5efe:10.0.0.1     private network, by way of
2a01:4f8::5efe:169.254.169.254  metadata
fe80::1%eth0        zone
2606:4700::1%1      zone
localhost           not an IP address
127.1               not an IP address
0177.0.0.1          not an IP address
0x7f000001          not an IP address
2130706433          not an IP address
127.0.0.1/32        not an IP address
[::1]               not an IP address
"""

NOTHING_ALLOWED = EgressRules(allow_http=False, allow_networks=())
ANY_V4 = st.integers(min_value=0, max_value=(1 << 32) - 1).map(IPv4Address)


def allowing(*networks: str) -> EgressRules:
    return EgressRules(allow_http=False, allow_networks=tuple(ip_network(network) for network in networks))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_is_allowed(address: str) -> None:
    assert NOTHING_ALLOWED.refusal(address) is None


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_everything_else_is_refused_with_a_reason(line: str) -> None:
    address, words = line.split(maxsplit=1)

    refusal = NOTHING_ALLOWED.refusal(address)
    assert refusal is not None
    assert words in refusal.why


@pytest.mark.parametrize("address", ["", " ", "1.2.3.4 ", "1.2.3.4\n", "١.1.1.1", "\x00"])
def test_what_is_no_address_is_refused(address: str) -> None:
    refusal = NOTHING_ALLOWED.refusal(address)
    assert refusal is not None
    assert refusal.why == "not an IP address"


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.0/8"], "::ffff:127.0.0.1", True),
        (["127.0.0.0/8"], "::1", False),
        (["::1/128"], "::1", True),
        (["::1/128"], "127.0.0.1", False),
        (["10.1.0.0/16"], "10.1.2.3", True),
        (["10.1.0.0/16"], "10.2.0.1", False),
        (["fd00::/8"], "fd12::1", True),
        (["fd00::/8"], "fd00:ec2::254", False),
        (["fd00:ec2::254/128"], "fd00:ec2::254", True),
        (["0.0.0.0/0", "::/0"], "192.168.1.1", True),
        (["0.0.0.0/0", "::/0"], "169.254.169.254", False),
        (["100.64.0.0/10"], "100.100.100.200", False),
        (["169.254.0.0/16"], "169.254.169.254", False),
        (["169.254.169.254/32"], "169.254.169.254", True),
        (["169.254.169.254/32"], "::ffff:169.254.169.254", True),
        (["169.254.169.254/32"], "169.254.169.253", False),
        (["64:ff9b:1::/48"], "64:ff9b:1::8.8.8.8", True),
        (["64:ff9b:1::/48"], "64:ff9b:1::10.0.0.1", False),
        (["64:ff9b:1::/48", "10.0.0.0/8"], "64:ff9b:1::10.0.0.1", True),
        (["64:ff9b::/96"], "64:ff9b::127.0.0.1", False),
        (["2002::/16"], "2002:808:808::1", True),
        (["2002::/16"], "2002:7f00:1::1", False),
        (["2002::/16"], "2002:808:7f00:1::", True),
        (["2001::/32"], "2001:0:808:808::f7f7:f7f7", True),
        (["2001::/32"], "2001:0:808:808::80ff:fffe", False),
        (["2001::/32"], "2001:0:7f00:1::f7f7:f7f7", False),
        (["::/96"], "::8.8.8.8", True),
        (["::/96"], "::127.0.0.1", False),
        (["fe80::/10"], "fe80::1", True),
        (["fe80::/10"], "fe80::1%eth0", False),
    ],
)
def test_allowed_networks_lift_what_they_name_and_nothing_hidden_in_it(
    networks: list[str], address: str, allowed: bool
) -> None:
    assert (allowing(*networks).refusal(address) is None) is allowed


@given(ANY_V4)
def test_nothing_that_python_calls_private_is_allowed(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert NOTHING_ALLOWED.refusal(str(address)) is not None


@given(st.integers(min_value=0, max_value=(1 << 128) - 1).map(IPv6Address))
def test_nothing_that_python_calls_private_is_allowed_in_ipv6(address: IPv6Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert NOTHING_ALLOWED.refusal(str(address)) is not None


@given(ANY_V4)
def test_an_address_mapped_or_translated_is_judged_as_itself(address: IPv4Address) -> None:
    refused = NOTHING_ALLOWED.refusal(str(address)) is not None

    for carrier in ("::ffff:0:0", "64:ff9b::"):
        carried = ip_address(int(IPv6Address(carrier)) + int(address))
        assert (NOTHING_ALLOWED.refusal(str(carried)) is not None) is refused


@pytest.mark.parametrize("port", [80, 443, 1024, 3000, 5000, 8000, 8080, 8443, 9000, 32768, 60999, 65535])
def test_ports_where_receivers_listen_are_allowed(port: int) -> None:
    assert NOTHING_ALLOWED.port_refusal(port) is None


@pytest.mark.parametrize(
    "port", [-1, 0, 21, 22, 25, 53, 81, 110, 143, 445, 993, 1023, 2375, 3306, 5432, 6379, 9200, 11211, 27017, 65536]
)
def test_ports_of_other_services_are_refused(port: int) -> None:
    assert NOTHING_ALLOWED.port_refusal(port)


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2a01:4f8::5efe:8.8.8.8"])
def test_a_denied_network_is_refused_whatever_allows_it(address: str) -> None:
    rules = replace(allowing("0.0.0.0/0", "::/0"), deny_networks=(ip_network("8.8.0.0/16"),))
    assert rules.refusal("8.9.0.1") is None
    refusal = rules.refusal(address)
    assert refusal is not None
    assert "DISPATCHER_DENY_NETWORKS" in refusal.remedy


@pytest.mark.parametrize(
    ("prefix", "address"),
    # The examples of RFC 6052, 2.4.
    [
        ("2001:db8::/32", "2001:db8:{a}{b}:{c}{d}::"),
        ("2001:db8:100::/40", "2001:db8:1{a}:{b}{c}:{d}::"),
        ("2001:db8:122::/48", "2001:db8:122:{a}{b}:{c}:{d}00::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3{a}:{b}:{c}{d}::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:{a}:{b}{c}:{d}00::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::{a}{b}:{c}{d}"),
        ("64:ff9b:1::/48", "64:ff9b:1:{a}{b}:{c}:{d}00::"),
    ],
)
def test_a_translated_address_is_judged_as_what_it_is_translated_to(prefix: str, address: str) -> None:
    network = ip_network(prefix)
    assert isinstance(network, IPv6Network)
    rules = replace(NOTHING_ALLOWED, nat64_prefixes=(network,))

    def of(dotted: str) -> str:
        a, b, c, d = (f"{int(octet):02x}" for octet in dotted.split("."))
        return address.format(a=a, b=b, c=c, d=d)

    assert rules.refusal(of("8.8.8.8")) is None
    for dotted, why in (("10.0.0.1", "private"), ("127.0.0.1", "loopback"), ("169.254.169.254", "metadata")):
        refusal = rules.refusal(of(dotted))
        assert refusal is not None
        assert why in refusal.why
        assert dotted in refusal.why
    assert replace(rules, allow_networks=(ip_network("10.0.0.0/8"),)).refusal(of("10.0.0.1")) is None


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hooks.example.com", True),
        ("a.example.org", True),
        ("a.b.example.org", True),
        ("8.8.8.8", True),
        ("example.org", False),
        ("evil-example.org", False),
        ("hooks.example.com.evil.example", False),
        ("a.hooks.example.com", False),
        ("8.8.4.4", False),
        ("10.0.0.1", False),
    ],
)
def test_where_hosts_are_listed_nothing_else_is_sent_to(host: str, allowed: bool) -> None:
    listed = Hosts.parse(["Hooks.example.com", "*.example.org", "8.8.8.8", "10.0.0.0/8"], "DISPATCHER_ALLOW_HOSTS")
    refusal = replace(NOTHING_ALLOWED, allow_hosts=listed).target_refusal("https", host, 443)
    assert (refusal is None) is allowed
    if host.startswith("10."):
        # Listed, and not public: both have to be allowed.
        assert refusal is not None
        assert "DISPATCHER_ALLOW_NETWORKS" in refusal.remedy


@pytest.mark.parametrize(
    "entry", ["*", "*.", "a..b", "http://a.example", "a.example:443", "a.*.example", "ü.example", "10.0.0.1/8"]
)
def test_what_is_no_host_is_no_entry_of_a_list(entry: str) -> None:
    with pytest.raises(InvalidSettings, match="DISPATCHER_NO_PROXY"):
        Hosts.parse([entry], "DISPATCHER_NO_PROXY")


def test_ports_are_what_the_settings_say_and_what_is_denied_goes_first() -> None:
    rules = replace(NOTHING_ALLOWED, allow_ports=((22, 22), (6000, 7000)), deny_ports=((6500, 6600),))
    allowed = [port for port in (22, 80, 443, 6000, 6379, 6499, 6500, 6600, 6601, 7001) if not rules.port_refusal(port)]
    assert allowed == [22, 6000, 6379, 6499, 6601]


def test_the_database_and_the_proxy_are_no_receivers_even_where_their_network_is_allowed() -> None:
    own = frozenset({("db.example.com", 6543), ("10.0.0.7", 3128)})
    rules = replace(allowing("10.0.0.0/8"), own_services=own)
    for host, port in (
        ("db.example.com", 6543),
        ("10.0.0.7", 3128),
        ("::ffff:10.0.0.7", 3128),
        ("64:ff9b::10.0.0.7", 3128),
    ):
        refusal = rules.target_refusal("https", host, port)
        assert refusal is not None
        assert refusal.remedy == "no setting allows it"
    for host, port in (("db.example.com", 443), ("10.0.0.7", 443), ("10.0.0.8", 3128), ("8.8.8.8", 6543)):
        assert rules.target_refusal("https", host, port) is None


def test_a_database_that_is_known_by_name_may_be_at_any_address_that_is_not_public() -> None:
    rules = replace(allowing("10.0.0.0/8"), unlocated_ports=frozenset({6543}))
    for address in ("10.0.0.9", "::ffff:10.0.0.9", "64:ff9b::10.0.0.9"):
        refusal = rules.target_refusal("https", address, 6543)
        assert refusal is not None
        assert "DISPATCHER_DATABASE_URL" in refusal.remedy
    for host, port in (("10.0.0.9", 443), ("8.8.8.8", 6543)):
        assert rules.target_refusal("https", host, port) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_an_own_port_is_refused_at_every_address_that_ends_at_this_machine(address: str) -> None:
    rules = replace(allowing("0.0.0.0/0", "::/0"), own_ports=frozenset({8080}))
    assert rules.connection_refusal(address, 8080) is not None
    assert rules.connection_refusal(address, 8081) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "proxy", "proxy:3128", "https://proxy:3128", "socks5://proxy:1080", "http://proxy", "http://:3128",
        "http://proxy:0", "http://proxy:99999", "http://proxy:3128/path", "http://u:s3cret@proxy:port", "http://a b:1",
    ],
)  # fmt: skip
def test_what_is_no_proxy_is_refused_and_its_password_not_shown(text: str) -> None:
    with pytest.raises(InvalidSettings, match="DISPATCHER_PROXY") as refused:
        Proxy.parse(text)
    assert "s3cret" not in str(refused.value)


def test_a_proxy_is_shown_without_its_password() -> None:
    proxy = Proxy.parse("http://me:s3cret@[fd00::1]:3128/")
    assert (proxy.host, proxy.port, proxy.shown) == ("fd00::1", 3128, "http://[fd00::1]:3128")
    assert "s3cret" not in repr(proxy)
    assert proxy.asks("2606:4700::1", 443).startswith(b"CONNECT [2606:4700::1]:443 HTTP/1.1\r\n")
