"""What a URL means: a corpus with verdicts, and every parser that may read it after ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import ada_url
import pytest
import yarl
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules import idna_names
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.egress import EgressRules
from tests.rules.corpus import CASES, Case

STRICT = EgressRules(allow_http=False, allow_networks=())
#: What says nothing about addresses and names, so that the parser alone is asked.
OPEN = EgressRules(
    allow_http=True,
    allow_networks=STRICT.allow_networks,
    allow_ports=((1, 65535),),
    deny_ports=(),
)

PIECES = [
    "example.com", "evil.example", "127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "localhost", "[::1]", "[",
    "]", "[::ffff:8.8.8.8]", "8.8.8.8", "xn--", "xn--n3h", "xn--fa-hia", "XN--", "-", "_", "a", "Z", "0", "1",
    "9", ".", "..", ":", "443", "8443", ":443", ":0", ":080", "@", "u:p@", "%40", "%2e", "%00", "%", "/", "//",
    "\\", "?", "#", "&", ";", "=", "+", "~", "!", "$", "*", "(", "'", '"', "<", " ", "\t", "\n", "\r", "\x00",
    "\x7f", "\x85", "ß", "ς", "é", "ü", "。", "．", "１", "ａ", "①", "\u00ad", "\u200b", "\u200c", "\u200d",
    "\u202e", "\u2028", "א", "٠", "☃", "😀", "İ", "K",
]  # fmt: skip
_HOSTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
URLS = st.one_of(
    st.builds("{}{}{}".format, st.sampled_from(["https://", "http://", "HTTPS://", "https:/", "https:", "//"]), _HOSTS,
              st.sampled_from(["", "/", "/hook", "?x=1", "/a?b=c", "/%2e%2e/x", "/ü", "/\\x"])),
    st.lists(st.sampled_from(["https:", *PIECES]), max_size=10).map("".join),
    st.text(max_size=30).map(lambda rest: f"https://{rest}"),
    st.text("abcxn-0123456789.", min_size=1, max_size=25).map(lambda rest: f"https://xn--{rest}/"),
    st.text(max_size=40),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.url)[1:60])
def test_a_url_is_accepted_or_refused_with_the_rule_and_the_remedy(case: Case) -> None:
    if case.destination is not None:
        url = CallbackUrl.parse(case.url, STRICT)
        assert (url.text, url.destination) == (case.url, case.destination)
        return
    with pytest.raises(InvalidField) as refused:
        CallbackUrl.parse(case.url, STRICT)
    assert refused.value.field == "url"
    assert case.words in refused.value.detail


def test_the_corpus_is_large_and_says_nothing_twice() -> None:
    urls = [case.url for case in CASES]
    assert len(urls) == len(set(urls)) >= 300
    assert sum(case.destination is not None for case in CASES) >= 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.url)[1:60])
def test_no_parser_reads_another_host_in_the_corpus(case: Case) -> None:
    refused_or_read_alike(case.url)


@settings(derandomize=True, max_examples=600)
@given(URLS)
def test_any_text_is_refused_or_read_alike_by_every_parser(text: str) -> None:
    refused_or_read_alike(text)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(max_examples=200_000)
@given(URLS)
def test_a_great_many_texts_are_refused_or_read_alike_by_every_parser(text: str) -> None:
    refused_or_read_alike(text)


@settings(derandomize=True, max_examples=600)
@given(
    st.lists(st.sampled_from([*"abß.üςé-０１ａ。☃ıIK1", "xn--n3h", "\u200d", "א", "ل", "\u0301"]), max_size=8).map(
        "".join
    )
)
def test_a_name_is_encoded_as_a_browser_encodes_it_or_not_at_all(name: str) -> None:
    encoded = idna_names.to_ascii(f"{name}.example")
    if encoded is not None:
        assert _of_whatwg(f"https://{name}.example/")[0] == encoded


def test_a_name_that_is_encoded_wrongly_for_browsers_is_found_out() -> None:
    # The old standard: what this test is about would not be seen with a parser that followed it too.
    assert "faß.de".encode("idna") == b"fass.de"
    assert _of_whatwg("https://faß.de/")[0] == idna_names.to_ascii("faß.de") == "xn--fa-hia.de"


def refused_or_read_alike(text: str) -> None:
    """Asserts that no parser sees another scheme, host or port in a URL that we accept."""
    try:
        url = CallbackUrl.parse(text, OPEN)
    except InvalidField:
        return
    ours = (url.host, url.port, url.scheme)
    for read in (_of_whatwg, _of_yarl, _of_urllib):
        with _named(read.__name__, text):
            assert read(text) == ours


@contextmanager
def _named(parser: str, text: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise AssertionError(f"{parser} refuses {text!r}: {error}") from error


def _of_whatwg(text: str) -> tuple[str, int, str]:
    url = ada_url.URL(text)
    scheme = url.protocol.removesuffix(":")
    return _plain(url.hostname), int(url.port or {"http": 80, "https": 443}[scheme]), scheme


def _of_yarl(text: str) -> tuple[str, int, str]:
    url = yarl.URL(text, encoded=True)
    return _plain((url.raw_host or "").lower()), url.port or 0, url.scheme


def _of_urllib(text: str) -> tuple[str, int, str]:
    url = urlsplit(text)
    return _plain(url.hostname or ""), url.port or {"http": 80, "https": 443}[url.scheme], url.scheme


def _plain(host: str) -> str:
    host = host.strip("[]")
    return str(IPv6Address(host)) if ":" in host else host
