"""Callback URLs: a corpus of what clients send and what attackers try."""

from ipaddress import ip_network

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.callback_url import CallbackUrl, _check_readings_agree
from dispatcher.rules.egress import EgressRules
from tests.rules.corpus import CASES, Case

STRICT = EgressRules(allow_http=False, allow_networks=())
HTTP = EgressRules(allow_http=True, allow_networks=())
LOOPBACK = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
COMPOSE = EgressRules(allow_http=True, allow_networks=(ip_network("172.16.0.0/12"),))


@pytest.mark.parametrize(
    ("rules", "wanted"), [(STRICT, "with https:, not ftp:"), (HTTP, "with https: or http:, not ftp:")]
)
def test_a_scheme_is_refused_with_those_that_are_taken(rules: EgressRules, wanted: str) -> None:
    with pytest.raises(InvalidField, match=wanted):
        CallbackUrl.parse("ftp://example.com/", rules)


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


@pytest.mark.parametrize(("text", "shown", "destination"), ACCEPTED)
def test_what_clients_send_is_kept_byte_for_byte(text: str, shown: str | None, destination: str) -> None:
    url = CallbackUrl.parse(text, STRICT)

    assert url.text == text
    assert url.shown == (shown or text)
    assert url.destination == destination
    assert url.destination == f"{url.scheme}://{f'[{url.host}]' if ':' in url.host else url.host}:{url.port}"


#: What loopback in `allow_networks` is meant to open, by the words of its refusal without it.
OPENED = ("loopback", "this machine itself", "DISPATCHER_ALLOW_NETWORKS", "only a private network resolves")
STILL_REFUSED = [case for case in CASES if case.words and case.url.startswith("https:")]


@pytest.mark.parametrize("case", [case for case in STILL_REFUSED if not case.words.startswith(OPENED)])
def test_the_settings_of_development_open_nothing_else(case: Case) -> None:
    with pytest.raises(InvalidField) as refused:
        CallbackUrl.parse(case.url, LOOPBACK)
    assert case.words in refused.value.detail


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
