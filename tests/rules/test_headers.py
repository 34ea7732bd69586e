"""Header names and values that callers choose: nothing can be injected, and ours cannot be replaced."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.headers import check_signature_header, check_signature_prefix, check_static_headers

TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
RESERVED = [
    "Host",
    "Connection",
    "Content-Type",
    "content-length",
    "CONTENT-ENCODING",
    "Transfer-Encoding",
    "Webhook-Id",
    "webhook-signature",
    "webhook-anything",
    "X-Delivery-Attempt",
    "x-delivery-anything",
    "X-Job-Previous",
    "User-Agent",
    "traceparent",
    "Keep-Alive",
    "Upgrade",
    "TE",
    "Trailer",
    "Expect",
    "Proxy-Authorization",
    "CE-Id",
    "ce-anything",
]
ILLEGAL = ["", " ", "X Y", "X:Y", "X\r\nY", "X\n", "Ü", "X\x00", "(x)", "x/y", "x" * 101]


def test_legal_headers_come_back_as_given() -> None:
    headers = {"Authorization": "Bearer abc", "X-Tenant": 'a, b;c="d"', "x_y": "", "X-Tab": "a\tb"}

    assert check_static_headers(headers) == headers


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_refused_everywhere(name: str) -> None:
    with pytest.raises(InvalidField, match="choose another name") as refused:
        check_static_headers({name: "x"})
    assert refused.value.field == "headers"
    with pytest.raises(InvalidField, match="choose another name") as refused:
        check_signature_header(name)
    assert refused.value.field == "signature_header"


@pytest.mark.parametrize("name", ILLEGAL)
def test_names_that_are_no_tokens_are_refused_everywhere(name: str) -> None:
    with pytest.raises(InvalidField, match="no header name"):
        check_static_headers({name: "x"})
    with pytest.raises(InvalidField, match="no header name"):
        check_signature_header(name)


@pytest.mark.parametrize(
    "value", ["a\r\nX-Injected: 1", "a\n", "\na", "a\x00b", "a\x7f", " a", "a ", "\t", "ü", "\u2028", "a\x0bb"]
)
def test_values_that_could_inject_are_refused_without_being_shown(value: str) -> None:
    with pytest.raises(InvalidField, match="visible ASCII") as refused:
        check_static_headers({"X-Secret": f"t0ken{value}" if value[0] == "a" else value})
    assert "t0ken" not in str(refused.value)


def test_the_same_name_in_another_case_is_refused() -> None:
    with pytest.raises(InvalidField, match="twice"):
        check_static_headers({"X-A": "1", "x-a": "2"})


def test_there_may_be_twenty_headers_and_8_kib() -> None:
    assert len(check_static_headers({f"X-{number}": "1" for number in range(20)})) == 20
    assert check_static_headers({"X": "a" * (8192 - 5)})
    with pytest.raises(InvalidField, match="20 are the most"):
        check_static_headers({f"X-{number}": "1" for number in range(21)})
    with pytest.raises(InvalidField, match="8192 are the most"):
        check_static_headers({"X": "a" * (8192 - 4)})


def test_the_field_is_the_callers() -> None:
    with pytest.raises(InvalidField) as refused:
        check_static_headers({"Host": "x"}, field="defaults.headers")
    assert refused.value.field == "defaults.headers"


@pytest.mark.parametrize(
    "name",
    ["X-Webhook-Signature", "X-Hub-Signature-256", "X-Provider-Signature", "X-Agent-Signature", "X-AgentX-Signature"],
)
def test_the_signature_headers_of_known_receivers_are_accepted(name: str) -> None:
    assert check_signature_header(name) == name


@pytest.mark.parametrize("prefix", ["", "sha256=", "v1=", "x" * 32])
def test_legal_prefixes(prefix: str) -> None:
    assert check_signature_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", [" ", "sha256= ", "a\r\n", "ü", "\x00", "x" * 33])
def test_illegal_prefixes_are_refused_by_name(prefix: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_signature_prefix(prefix)
    assert refused.value.field == "signature_prefix"


@given(st.dictionaries(st.text(max_size=12) | st.text(TOKEN, min_size=1), st.text(max_size=20), max_size=4))
def test_whatever_is_accepted_is_one_line_of_ascii(headers: dict[str, str]) -> None:
    try:
        accepted = check_static_headers(headers)
    except InvalidField:
        return
    for name, value in accepted.items():
        assert set(name) <= set(TOKEN)
        assert value == value.strip()
        assert all(character == "\t" or " " <= character <= "~" for character in value)
