"""Redaction: what looks like a secret, or is one of the settings', becomes `***`, and nothing else does."""

import asyncio
import base64
import html
import io
import json
import logging
import sys
from collections.abc import Callable
from urllib.parse import quote

import pytest
from aiohttp import encode_basic_auth, web
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from dispatcher import logs, redaction
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.redaction import keep_out, redact, without_echoes
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import signature_header
from dispatcher.settings import load
from dispatcher.store.endpoint_fields import OAuth2Fields
from dispatcher.transport.client import EXCERPT_LIMIT, Request
from dispatcher.transport.lean import LeanWire
from dispatcher.transport.message import Terms
from dispatcher.transport.tls import Trust
from dispatcher.transport.wire import AiohttpWire
from tests.outpost import Outpost
from tests.process import process_as_before
from tests.receiver import Received, Receiver

TOKEN = signature_header([b"k"], "evt_1", 1, b"{}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://u:pa-ss@host/x?token=abc&b=c#d", "GET https://u:***@host/x?token=***&b=***#d"),
        ("postgresql+asyncpg://app:p%40ss@db:5432/x", "postgresql+asyncpg://app:***@db:5432/x"),
        ("a secret whsec_bg3Knq62KErlPJu7W3ZaWLqX7IxkOEaGxXCae0CISWw= in a text", "a secret whsec_*** in a text"),
        ("key whk_AbC-dEf_0123456789", "key whk_***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("dsn password=hidden1 host=db", "dsn password=*** host=db"),
        ("Config(client_secret='a b c', n=1)", "Config(client_secret=***, n=1)"),
        (f"webhook-signature: {TOKEN}", "webhook-signature: v1,***"),
        (f"?token=job_{'a' * 80}", "?token=***"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "secret: is the one that signs already; give another, or none and one is made",
        "make one with: echo whsec_$(openssl rand -base64 32)",
        "send the header `Authorization: Bearer KEY`",
        "write sqlite:///dispatcher.db or postgresql://user@host/name",
        "evt_4f9c2d1ab0e84c53b7a1c0d2e3f40516 of job_1 to ep_es30gn327c04a",
        "GET /v1/jobs/{job_id}/events?after=",
        "a token of the endpoint, and its password",
    ],
)
def test_what_people_are_told_stays(text: str) -> None:
    assert redact(text) == text


def test_a_password_that_is_a_parameter_of_the_database_is_taken_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_own", set())
    load(
        database_url="postgresql://host/name?user=an-0rdinary-user&password=p%2fss+w0rd-of-ours&sslpassword=0f-the-key"
    )
    shown = redact("x p/ss w0rd-of-ours y p%2Fss%20w0rd-of-ours z p%2fss+w0rd-of-ours 0f-the-key an-0rdinary-user")
    assert shown == "x *** y *** z *** *** an-0rdinary-user"


def test_the_settings_own_secrets_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_own", set())
    key = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
    load(
        admin_key="admin-Key-0123456789",
        secret_key=f"{key}, {key}",
        database_url="postgresql://app:p%40ss-w0rd-of-ours@host/name",
    )
    assert (
        redact(f"x admin-Key-0123456789 y {key} z p@ss-w0rd-of-ours, p%40ss-w0rd-of-ours") == "x *** y *** z ***, ***"
    )


def test_a_secret_that_is_part_of_another_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_own", set())
    longest = "p4ss-w0rd" * 6
    keep_out(longest[:length] for length in range(9, 55, 3))
    assert redact(f"x {longest} y") == "x *** y"


@pytest.mark.parametrize("piece", ["token", "a_token", "password", "://a:", "v1,", "Basic "])
def test_a_long_text_is_redacted_in_a_time_that_grows_with_its_length(piece: str) -> None:
    # Were it with its square, this would take a quarter of an hour.
    text = piece * (1_000_000 // len(piece))
    assert redact(text) == text


async def test_what_nobody_expected_is_told_without_secrets() -> None:
    code = (
        "from dispatcher.cli import main\n"
        "def fail(arguments):\n    raise ValueError('at ' + 'https://user:hidden-1@host/?token=' + 'hidden-2')\n"
        "main.run = fail\nmain.main([])"
    )
    ended = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
    _, said = await ended.communicate()
    assert ended.returncode == 1
    assert b"Traceback" in said
    assert said.endswith(b"ValueError: at https://user:***@host/?token=***\n")


def test_a_secret_that_is_no_valid_text_is_taken_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_own", set())
    keep_out(["p4ss-w0rd-\udcff"])
    assert redact("x p4ss-w0rd-\udcff y") == "x *** y"


def test_a_word_and_what_is_short_are_no_secrets_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_own", set())
    keep_out(["dispatcher", "pass1", "", None])
    assert redact("dispatcher.started with pass1") == "dispatcher.started with pass1"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exceptions_text_is_redacted_in_the_log(log_format: logs.Format) -> None:
    stream = io.BytesIO()
    with process_as_before():
        logs.configure(log_format, "info", stream)
        try:
            raise ValueError("https://user:hidden-1@host/hook?token=hidden-2")
        except ValueError:
            logs.logger("dispatcher.test").exception("failed")
    assert b"hidden" not in stream.getvalue()
    assert b"ValueError" in stream.getvalue()


def test_inside_an_app_its_handlers_are_given_no_exception_to_write(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dispatcher"):
        try:
            raise ValueError("https://user:hidden-1@host/hook?token=hidden-2")
        except ValueError:
            logs.logger("dispatcher.test").exception("failed")
    assert "ValueError: https://user:***@host/hook?token=***" in caplog.text
    assert "hidden" not in caplog.text


def test_no_representation_shows_a_key() -> None:
    keys = SigningKeys.beside(Secret("s3cret-text"))
    assert "s3cret" not in f"{keys!r} {keys.secret!r}"
    assert "pass-w0rd" not in repr(load(database_url="postgresql://app:pass-w0rd@host/name"))
    request = Request(URL("https://u:pass-w0rd@host/?token=t0ken"), {"x-api-key": "k3y"}, b"b0dy", 1.0)
    assert not any(secret in repr(request) for secret in ("pass-w0rd", "t0ken", "k3y", "b0dy"))
    fields = {"token_url": "https://host/?key=k3y", "client_id": "c", "client_secret": "s3cret"}
    assert not any(secret in repr(OAuth2Fields.read(fields)) for secret in ("k3y", "s3cret"))


@pytest.mark.parametrize("wire", [AiohttpWire, LeanWire])
async def test_what_a_client_keeps_of_a_url_shows_none_of_its_secrets(wire: type[AiohttpWire | LeanWire]) -> None:
    made = wire(Terms(EgressRules(allow_http=False, allow_networks=()), None, Trust(None).context, 1.0, 1.0, 1024))
    url = URL("https://u:pass-w0rd@host.example/?token=t0ken")
    route = made._route(url)
    assert encode_basic_auth("u", "pass-w0rd") in route.head
    assert not any(secret in repr(route) for secret in ("pass-w0rd", "t0ken", encode_basic_auth("u", "pass-w0rd")[6:]))
    await made.close()


async def test_what_an_answer_repeats_of_its_request_is_not_kept(sqlite_outpost: Outpost) -> None:
    endpoint = await sqlite_outpost.endpoint(
        "http://user:p%40ss-w0rd@127.0.0.1:8000/?token=t0ken%2Fa&n=1",
        headers={"X-Api-Key": "k3y-value", "Authentication": "Bearer b3arer", "X-Short": "on"},
    )
    policy = await EndpointBook(sqlite_outpost.deployment).read(endpoint.row)
    assert policy is not None
    basic = base64.b64encode(b"user:p@ss-w0rd").decode()
    for hidden in ("k3y-value", "b3arer", "p%40ss-w0rd", "p@ss-w0rd", basic, "t0ken%2Fa", "t0ken/a", TOKEN):
        kept = without_echoes(f"on: {hidden} is wrong", policy.secret_texts)
        assert "***" in kept
        assert hidden not in kept
    assert without_echoes("on 1", policy.secret_texts) == "on 1"


@pytest.mark.parametrize(
    "written",
    [
        lambda value: json.dumps({"X-Api-Key": value}),
        lambda value: json.dumps({"X-Api-Key": value}).replace("/", "\\/"),
        lambda value: f"<p>{html.escape(value)}</p>",
        lambda value: f"X-Api-Key={quote(value, safe='')}",
    ],
    ids=["json", "json with escaped slashes", "html", "form"],
)
async def test_an_echo_is_known_however_the_answer_writes_it(
    written: Callable[[str], str], sqlite_outpost: Outpost
) -> None:
    value = 'k3y/"value"&more'
    endpoint = await sqlite_outpost.endpoint(headers={"X-Api-Key": value})
    policy = await EndpointBook(sqlite_outpost.deployment).read(endpoint.row)
    assert policy is not None
    kept = without_echoes(written(value), policy.secret_texts)
    assert "***" in kept
    assert "k3y" not in kept
    assert "more" not in kept


@pytest.mark.parametrize(
    ("url", "echo"),
    [
        ("http://t0ken-alone@127.0.0.1:8000/", "t0ken-alone"),
        ("http://t0ken-alone@127.0.0.1:8000/", base64.b64encode(b"t0ken-alone:").decode()),
        ("http://127.0.0.1:8000/hook?t0ken-alone", "/hook?t0ken-alone"),
        ("http://127.0.0.1:8000/hook?a=1&t0ken%2Falone", "t0ken/alone"),
    ],
    ids=["user", "basic", "query", "encoded query"],
)
async def test_what_a_url_shows_as_stars_is_not_kept_of_an_answer(url: str, echo: str, sqlite_outpost: Outpost) -> None:
    endpoint = await sqlite_outpost.endpoint(url)
    policy = await EndpointBook(sqlite_outpost.deployment).read(endpoint.row)
    assert policy is not None
    kept = without_echoes(f"you sent {echo} to us", policy.secret_texts)
    assert "***" in kept
    assert echo not in kept


@pytest.mark.parametrize(
    "written",
    [lambda value: json.dumps(value).replace("/", "\\/"), lambda value: quote(value, safe="")],
    ids=["json with escaped slashes", "form"],
)
@pytest.mark.parametrize("version", ["v1", "v1a"])
def test_a_signature_is_known_however_the_answer_writes_it(version: str, written: Callable[[str], str]) -> None:
    signature = "aB/+" * 10 + "aBc="
    kept = without_echoes(f"got {written(f'{version},{signature}')} and more", ())
    assert "***" in kept
    assert "aB" not in kept
    assert "and more" in kept


@pytest.mark.parametrize("shown", [4, 12, 23])
def test_an_echo_that_the_excerpt_cuts_is_not_kept_in_part(shown: int) -> None:
    secret = "k3y-value-k3y-value-long"
    before = "x" * (EXCERPT_LIMIT - shown)
    assert without_echoes(before + secret[:shown], [secret]) == before + "***"
    # What ends where its text ends was not cut, and what is cut in a letter ends with a stand-in for it.
    assert without_echoes("all is well: k3y-", [secret]) == "all is well: k3y-"
    assert without_echoes(before + secret[:shown] + "\N{REPLACEMENT CHARACTER}", [secret]) == before + "***"


async def test_the_attempt_log_repeats_no_signature_of_any_kind(sqlite_outpost: Outpost, receiver: Receiver) -> None:
    def repeats(request: Received) -> web.StreamResponse:
        said = f"bad: {request.headers['X-Sig']} {request.headers['X-Sig'][7:]} {request.headers['webhook-signature']}"
        return web.Response(status=500, text=said)

    receiver.answers("/hook", repeats)
    await sqlite_outpost.endpoint(receiver.url("/hook"), signature_header="X-Sig", signature_prefix="sha256=")
    async with sqlite_outpost.dispatcher():
        await sqlite_outpost.publish("job.completed")
        await sqlite_outpost.sees("SELECT 1 FROM attempts")
    [attempt] = await sqlite_outpost.attempts()
    assert attempt.response_excerpt == "bad: *** *** v1,***"


_PIECES = st.sampled_from(
    [
        *("password=", "token='", "'", '"', "\\", "://", "u:", "p@", "?a=", "x", " ", "\n", "&b=", "v1,"),
        "Bearer abcdefghi",
        "whsec_abcdefgh12",
    ]
)


@given(st.lists(_PIECES, max_size=30).map("".join))
@example("password='x")
@example('password=x"y')
def test_a_redacted_line_is_still_json(text: str) -> None:
    stream = io.BytesIO()
    with process_as_before():
        logs.configure("json", "info", stream)
        logs.logger("dispatcher.test").info("said", text=text, after='it\'s "kept"')
    line = json.loads(stream.getvalue())
    assert (line["event"], line["after"]) == ("said", 'it\'s "kept"')
