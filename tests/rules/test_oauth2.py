"""Client credentials: what is asked of a token endpoint, and for how long its answer holds."""

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from dispatcher.errors import InvalidField
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.oauth2 import LONGEST_S, UNSAID_S, NoToken, Token, read_refusal, read_token, vet_token_url

RULES = EgressRules(allow_http=False, allow_networks=())


@pytest.mark.parametrize(
    ("said", "usable_s"),
    [
        (None, UNSAID_S),
        (3600, 3570.0),
        ("3600", 3570.0),
        (100, 90.0),
        (1, 0.9),
        (1e300, LONGEST_S - 30),
        (10**400, None),
        (0, None),
        (-1, None),
        (True, None),
        ([], None),
        ("soon", None),
    ],
)
def test_a_token_is_used_until_shortly_before_it_expires(said: object, usable_s: float | None) -> None:
    body = json.dumps({"access_token": "a.b-c_d~e+f/g==", "token_type": "bearer", "expires_in": said}).encode()
    if usable_s is None:
        with pytest.raises(NoToken, match="expires_in"):
            read_token(body)
    else:
        token = read_token(body)
        assert token.text == "a.b-c_d~e+f/g=="
        assert token.usable_s == pytest.approx(usable_s)


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        ('{"Authorization": "Bearer t0ken-of-many-parts=="}', '{"Authorization": "Bearer ***"}'),
        ("it was t0ken-of-many", "it was ***"),
        ("t0ken-of-many-parts==, t0ken-of-many-parts==", "***, ***"),
        ("no token", "no token"),
        ("", ""),
    ],
)
def test_a_token_that_is_sent_back_is_hidden(shown: str, hidden: str) -> None:
    assert Token("t0ken-of-many-parts==", 1.0).hidden_in(shown) == hidden


@pytest.mark.parametrize(
    "written",
    [
        lambda text: json.dumps({"authorization": f"Bearer {text}"}).replace("/", "\\/"),
        lambda text: f"authorization={quote(f'Bearer {text}', safe='')}",
        lambda text: "x" * 300 + text[:8],
        lambda text: "x" * 300 + text.replace("/", "\\/")[:9],
    ],
    ids=["json with escaped slashes", "form", "cut", "cut json"],
)
def test_a_token_is_hidden_however_an_answer_writes_it(written: Callable[[str], str]) -> None:
    hidden = Token("t0k/en+of/many+parts==", 1.0).hidden_in(written("t0k/en+of/many+parts=="))
    assert "***" in hidden
    assert not any(part in hidden for part in ("t0k", "many", "parts"))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": 1}', b'{"error": "a b"}', b'{"error": "' + b"a" * 41 + b'"}'])
def test_of_a_refusal_only_a_code_is_told(body: bytes) -> None:
    assert read_refusal(body) == ""
    assert read_refusal(b'{"error": "invalid_client", "error_description": "<b>"}') == "invalid_client"


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example.com/token",
        "https://10.0.0.1/token",
        "https://169.254.169.254/latest",
        "https://localhost/token",
        "https://auth.example.com:6379/",
        "https://user:password@auth.example.com/token",
        "https://auth.example.com/token#fragment",
        "auth.example.com/token",
    ],
)
def test_a_token_endpoint_is_vetted_as_a_callback_url_is(url: str) -> None:
    with pytest.raises(InvalidField) as raised:
        vet_token_url(url, RULES)
    assert raised.value.field == "oauth2/token_url"


def test_a_token_endpoints_query_is_not_shown() -> None:
    assert (
        vet_token_url("https://auth.example.com/token?key=k3y", RULES).shown == "https://auth.example.com/token?key=***"
    )
