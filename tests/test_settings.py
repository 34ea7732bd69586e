"""Settings: read once, and everything that is wrong with them told at once."""

import pytest

from dispatcher.errors import InvalidSettings
from dispatcher.settings import load


def test_everything_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "DATABASE_URL": "mysql://me:hidden-word@localhost/db",
        "PORT": "many",
        "LEASE": "soon",
        "RETRY_SCHEDULE": "5s,later",
        "RETRY_JITTER": "7",
        "ALLOW_NETWORKS": "nearby",
        "DENY_NETWORKS": "10.0.0.1/8",
        "NAT64_PREFIXES": "2001:db8::/33",
        "ALLOW_PORTS": "80-",
        "DENY_PORTS": "http",
        "VERIFY_ENDPOINTS": "perhaps",
        "MAX_PAYLOAD": "1XB",
        "SECRET_KEY": "hidden-word",
        "ENDPOINT_DEFAULTS": "[1]",
        "LOG_LEVEL": "loud",
        "SCHEMA": "a b",
        "TIMEOUT": "0",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"DISPATCHER_{name}", value)
    with pytest.raises(InvalidSettings) as caught:
        load()
    for name in wrong:
        assert f"DISPATCHER_{name}: " in str(caught.value)
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize("url", ["hidden-word", "oracle://me:hidden-word@localhost/db", ""])
def test_a_database_that_is_none_of_ours_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidSettings, match="DISPATCHER_DATABASE_URL") as caught:
        load(database_url=url)
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["sqlite:///d.db", "sqlite+aiosqlite:///d.db", "postgresql://u@h/d", "postgresql+psycopg://h1,h2/d"]
)
def test_a_database_is_named_with_or_without_its_driver(url: str) -> None:
    assert load(database_url=url).database_url == url


@pytest.mark.parametrize("source", ["", "two words", "ümlaut", 'a"b', "50%", "a\nb", "x" * 1001])
def test_a_source_that_is_no_uri_reference_is_refused(source: str) -> None:
    with pytest.raises(InvalidSettings, match="DISPATCHER_SOURCE"):
        load(source=source)


@pytest.mark.parametrize(
    "source", ["/dispatcher", "https://api.example.com/a?b=c#d", "urn:uuid:1", "a%20b", "it's;(so)"]
)
def test_a_source_is_a_uri_reference(source: str) -> None:
    assert load(source=source).source == source


def test_an_admin_key_may_be_any_text() -> None:
    key = load(admin_key="admin").admin_key
    assert key is not None
    assert key.get_secret_value() == "admin"
