"""Callback URLs: a corpus of what clients send and what attackers try."""

from ipaddress import ip_network

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.callback_url import CallbackUrl, _check_readings_agree
from dispatcher.rules.egress import EgressRules

STRICT = EgressRules(allow_http=False, allow_networks=())
HTTP = EgressRules(allow_http=True, allow_networks=())
LOOPBACK = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
COMPOSE = EgressRules(allow_http=True, allow_networks=(ip_network("172.16.0.0/12"),))

# text, shown, destination
ACCEPTED = [
    ("https://example.com/hook", None, "https://example.com:443"),
    ("https://example.com", None, "https://example.com:443"),
    ("https://example.com/", None, "https://example.com:443"),
    ("https://Example.COM:443/Hook", None, "https://example.com:443"),
    ("HTTPS://example.com/hook", None, "https://example.com:443"),
    ("https://example.com:8443/a/../b//c;d=1", None, "https://example.com:8443"),
    ("https://a.b.c.example.co.uk/%C3%BC%20x/~user/!$&'()*+,;=:@", None, "https://a.b.c.example.co.uk:443"),
    ("https://xn--mller-kva.example/", None, "https://xn--mller-kva.example:443"),
    ("https://my_service.example.com/", None, "https://my_service.example.com:443"),
    ("https://1.example.com/", None, "https://1.example.com:443"),
    ("https://8.8.8.8/", None, "https://8.8.8.8:443"),
    ("https://[2606:4700:4700::1111]/x", None, "https://[2606:4700:4700::1111]:443"),
    ("https://[2606:4700:4700:0:0::1111]:8443/x", None, "https://[2606:4700:4700::1111]:8443"),
    ("https://example.com/h?token=abc", "https://example.com/h?token=***", "https://example.com:443"),
    ("https://example.com/h?a=1&b=2&&c", "https://example.com/h?a=***&b=***&&***", "https://example.com:443"),
    ("https://example.com?t=a=b?c/d", "https://example.com?t=***", "https://example.com:443"),
    ("https://example.com/h?", None, "https://example.com:443"),
    ("https://u:pa%40ss@example.com/h", "https://u:***@example.com/h", "https://example.com:443"),
    ("https://u:a:b@example.com/h", "https://u:***@example.com/h", "https://example.com:443"),
    ("https://u:@example.com/h", "https://u:***@example.com/h", "https://example.com:443"),
    ("https://t0ken@example.com/h", "https://***@example.com/h", "https://example.com:443"),
]

# text, words of the message
REFUSED = [
    ("", "1 to 2048"),
    ("https://example.com/" + "a" * 2030, "1 to 2048"),
    ("example.com/hook", "absolute URL"),
    ("//example.com/hook", "absolute URL"),
    ("/hook", "absolute URL"),
    ("https:example.com", "absolute URL"),
    ("https:/example.com", "absolute URL"),
    ("://example.com", "absolute URL"),
    ("http://example.com/", "DISPATCHER_ALLOW_HTTP"),
    ("ftp://example.com/", "must begin with https"),
    ("file:///etc/passwd", "must begin with https"),
    ("gopher://example.com:6379/_x", "must begin with https"),
    ("javascript://example.com/%0aalert(1)", "must begin with https"),
    ("unix://var/run/docker.sock", "must begin with https"),
    ("https:///hook", "no host"),
    ("https://", "no host"),
    ("https://?x", "no host"),
    ("https://:443/", "no host"),
    ("https://user:pw@/", "no host"),
    ("https://example.com/#part", "fragment"),
    ("https://example.com/#", "fragment"),
    ("https://example.com#@evil.example/", "fragment"),
    (" https://example.com/", "white space"),
    ("https://example.com/\n", "control character"),
    ("https://example.com/a\r\nX-Injected: 1", "control character"),
    ("https://exam\tple.com/", "control character"),
    ("https://example.com/\x00", "control character"),
    ("https://example.com/\u2028", "control character"),
    ("https://example.com/a b", "send it as https://example.com/a%20b"),
    ("https://example.com/ü", "send it as https://example.com/%C3%BC"),
    ("https://müller.example/ü?x=ü", "send it as https://xn--mller-kva.example/%C3%BC?x=%C3%BC"),
    ("https://example.com/{id}", "send it as https://example.com/%7Bid%7D"),
    ("https://example.com/%zz%2", "send it as https://example.com/%25zz%252"),
    ("https://example.com/a?b[]=1", r"send it as https://example.com/a?b%5B%5D=***"),
    ("https://example.com/a\\b", "send it as https://example.com/a%5Cb"),
    ("https://example.com\\@evil.example/", "backslash"),
    ("https://example.com\\.evil.example/", "backslash"),
    ("https://exa mple.com/", "host"),
    ("https://ex<a>mple.com/", "host"),
    ("https://\u200b.example/", "host"),
    ("https://a@b@example.com/", "more than one @"),
    ("https://u:p@w@example.com/", "more than one @"),
    ("https://a:b@c:d@example.com/", "more than one @"),
    ("https://@example.com/", "needs a user"),
    ("https://:pw@example.com/", "needs a user"),
    ("https://u%3Ax:pw@example.com/", "needs a user"),
    ("https://u:%0d%0a@example.com/", "control character"),
    ("https://u:%ff@example.com/", "UTF-8"),
    ("https://u:%E2%82%AC@example.com/", "Latin-1"),
    ("https://example.com:/", "port"),
    ("https://example.com:0/", "port"),
    ("https://example.com:0443/", "port"),
    ("https://example.com:-1/", "port"),
    ("https://example.com:+443/", "port"),
    ("https://example.com:4_43/", "port"),
    ("https://example.com:443:443/", "port"),
    ("https://example.com:65536/", "port"),
    ("https://example.com:999999/", "port"),
    ("https://example.com:22/", "port 22"),
    ("https://example.com:25/", "port 25"),
    ("https://example.com:6379/", "Redis"),
    ("https://example.com:5432/", "PostgreSQL"),
    ("https://example.com:2375/", "Docker"),
    ("https://127.0.0.1/", "DISPATCHER_ALLOW_NETWORKS"),
    ("https://127.0.0.1:8443/", "loopback"),
    ("https://10.0.0.1/", "private"),
    ("https://192.168.1.1/", "private"),
    ("https://169.254.169.254/latest/meta-data/", "metadata"),
    ("https://100.100.100.200/", "metadata"),
    ("https://0.0.0.0/", "this network"),
    ("https://255.255.255.255/", "reserved"),
    ("https://[::1]/", "loopback"),
    ("https://[::]/", "unspecified"),
    ("https://[::ffff:127.0.0.1]/", "loopback"),
    ("https://[::ffff:a9fe:a9fe]/", "metadata"),
    ("https://[64:ff9b::7f00:1]/", "loopback"),
    ("https://[2002:7f00:1::]/", "6to4"),
    ("https://[fd00:ec2::254]/", "metadata"),
    ("https://[fe80::1]/", "link-local"),
    ("https://[fe80::1%25eth0]/", "zone id"),
    ("https://[2606:4700::1%25eth0]/", "zone id"),
    ("https://[::1/", "more than one"),
    ("https://::1/", "no host"),
    ("https://[example.com]/", "numeric host"),
    ("https://[127.0.0.1]/", "DISPATCHER_ALLOW_NETWORKS"),
    ("https://[v1.x]/", "numeric host"),
    ("https://[]/", "numeric host"),
    ("https://[::1].example.com/", "more than one"),
    ("https://2130706433/", "numeric host"),
    ("https://0x7f000001/", "numeric host"),
    ("https://0x7f.0.0.1/", "numeric host"),
    ("https://017700000001/", "numeric host"),
    ("https://0177.0.0.1/", "numeric host"),
    ("https://127.1/", "numeric host"),
    ("https://127.0.1/", "numeric host"),
    ("https://127.0.0.0x1/", "numeric host"),
    ("https://1.2.3.4.5/", "numeric host"),
    ("https://08.8.8.8/", "numeric host"),
    ("https://256.1.1.1/", "numeric host"),
    ("https://example.0x/", "numeric host"),
    ("https://example.123/", "numeric host"),
    ("https://0/", "numeric host"),
    ("https://127.0.0.1./", "ends in a dot"),
    ("https://example.com./", "ends in a dot"),
    ("https://localhost./", "ends in a dot"),
    ("https://./", "ends in a dot"),
    ("https://%65xample.com/", "percent-encoded host"),
    ("https://127%2e0.0.1/", "percent-encoded host"),
    ("https://example%00.com/", "percent-encoded host"),
    ("https://example..com/", "DNS name"),
    ("https://.example.com/", "DNS name"),
    ("https://-example.com/", "DNS name"),
    ("https://example-.com/", "DNS name"),
    ("https://exa!mple.com/", "DNS name"),
    ("https://*.example.com/", "DNS name"),
    ("https://" + "a" * 64 + ".com/", "DNS name"),
    ("https://" + "a." * 130 + "com/", "DNS name"),
    ("https://localhost/", "DISPATCHER_ALLOW_NETWORKS"),
    ("https://LOCALHOST:8443/", "this machine itself"),
    ("https://a.localhost/", "this machine itself"),
    ("https://localhost.localdomain/", "this machine itself"),
    ("https://ip6-localhost/", "this machine itself"),
    ("https://receiver/", "without a dot"),
    ("https://intranet:8443/hook", "without a dot"),
    ("https://metadata.google.internal/", "metadata"),
    ("https://METADATA.google.internal/", "metadata"),
    ("https://metadata/", "metadata"),
    ("https://metadata.goog/", "metadata"),
    ("https://instance-data.ec2.internal/", "metadata"),
]


@pytest.mark.parametrize(("text", "shown", "destination"), ACCEPTED)
def test_what_clients_send_is_kept_byte_for_byte(text: str, shown: str | None, destination: str) -> None:
    url = CallbackUrl.parse(text, STRICT)

    assert url.text == text
    assert url.shown == (shown or text)
    assert url.destination == destination
    assert url.destination == f"{url.scheme}://{f'[{url.host}]' if ':' in url.host else url.host}:{url.port}"


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_attackers_try_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(InvalidField) as refused:
        CallbackUrl.parse(text, STRICT)
    assert refused.value.field == "url"
    assert words in refused.value.detail


@pytest.mark.parametrize(("text", "words"), [case for case in REFUSED if case[0].startswith("https:")])
def test_the_settings_of_development_open_nothing_else(text: str, words: str) -> None:
    if words in {"loopback", "this machine itself", "without a dot", "DISPATCHER_ALLOW_NETWORKS"}:
        return
    with pytest.raises(InvalidField) as refused:
        CallbackUrl.parse(text, LOOPBACK)
    assert words in refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/hook",
        "http://localhost:8080/hook",
        "http://a.localhost:8080/hook",
        "http://[::1]:8080/hook",
        "https://localhost/hook",
        "http://receiver:9000/hook",
        "http://example.com/",
    ],
)
def test_development_reaches_its_own_machine(text: str) -> None:
    assert CallbackUrl.parse(text, LOOPBACK).text == text


def test_plain_http_has_its_own_port_and_opens_no_network() -> None:
    assert CallbackUrl.parse("http://example.com/", HTTP).destination == "http://example.com:80"
    for text in ("http://localhost/", "http://127.0.0.1/", "http://receiver/"):
        with pytest.raises(InvalidField):
            CallbackUrl.parse(text, HTTP)


def test_an_allowed_network_opens_plain_service_names_but_not_localhost_and_metadata() -> None:
    assert CallbackUrl.parse("http://receiver:9000/hook", COMPOSE).host == "receiver"
    for text in ("http://localhost:9000/", "http://metadata/", "http://127.0.0.1:9000/"):
        with pytest.raises(InvalidField):
            CallbackUrl.parse(text, COMPOSE)


SECRET_URL = "https://us3r:p4ssword@example.com/hook?token=t0ken&k3y"


def test_neither_its_representation_nor_an_error_shows_password_or_query_values() -> None:
    url = CallbackUrl.parse(SECRET_URL, STRICT)
    shown = [repr(url), str(url), url.shown, f"{[url]}"]
    for spoiled in (
        SECRET_URL.replace("hook", "hö ok"),
        SECRET_URL.replace("example", "exämple"),
        SECRET_URL + "#x",
        SECRET_URL + "\x00",
        SECRET_URL.replace("https", "http"),
        SECRET_URL.replace("example.com", "127.0.0.1"),
        SECRET_URL.replace("us3r:", "ü:"),
        SECRET_URL.replace(".com", ".com:22"),
        SECRET_URL + "&x=ü",
    ):
        with pytest.raises(InvalidField) as refused:
            CallbackUrl.parse(spoiled, STRICT)
        shown.append(str(refused.value))

    for text in shown:
        assert not any(secret in text for secret in ("p4ssword", "t0ken", "k3y")), text


@pytest.mark.parametrize(("text", "shown", "destination"), ACCEPTED)
def test_what_is_accepted_goes_to_the_same_host_in_the_client(text: str, shown: str | None, destination: str) -> None:
    url = CallbackUrl.parse(text, STRICT)
    sent = yarl.URL(url.text, encoded=True)

    assert (sent.scheme, sent.port) == (url.scheme, url.port)
    assert (sent.raw_host or "").lower() in (url.host, *([] if ":" not in url.host else [sent.raw_host]))


@given(st.text("ab0.:@/\\?#[]%-_1x\tü \n", max_size=30).map(lambda rest: f"https://{rest}") | st.text(max_size=40))
def test_any_text_is_either_refused_or_read_alike_by_the_client(text: str) -> None:
    try:
        url = CallbackUrl.parse(text, STRICT)
    except InvalidField:
        return
    sent = yarl.URL(url.text, encoded=True)
    assert ((sent.raw_host or "").lower(), sent.port) == (url.host, url.port)


@pytest.mark.parametrize(("host", "port"), [("evil.example", 443), ("example.com", 80)])
def test_a_url_that_parsers_read_in_two_ways_is_refused(host: str, port: int) -> None:
    with pytest.raises(InvalidField, match="read differently"):
        _check_readings_agree("https://example.com/", host, port)
