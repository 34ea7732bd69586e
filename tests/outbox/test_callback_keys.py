"""What a callback is sealed with: the deployment's key, the key file beside the very database, or nothing at all."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from dispatcher import Callback, ConfigurationError, InvalidField, prepare_sqlite, register_callback
from dispatcher.clock import SystemClock
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.settings import load
from dispatcher.store.deployment import open_deployment
from tests.outbox.conftest import sync_url
from tests.outpost import Outpost

URL = "https://client.example/hook?token=abc"


@pytest.fixture
def environment(producer_environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A producer's, without a key."""
    producer_environment.delenv("DISPATCHER_SECRET_KEY")
    return producer_environment


def _register(engine: Engine, **given: Any) -> Callback:
    with Session(engine) as session, session.begin():
        return register_callback(session, job_id="job_1", url=URL, **given)


async def test_without_a_key_the_file_beside_the_sqlite_database_seals(
    sqlite_outpost: Outpost, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("DISPATCHER_DATABASE_URL", "sqlite:///dispatcher.db")
    engine = create_engine(sync_url(sqlite_outpost), poolclass=NullPool)
    prepare_sqlite(engine)
    callback = _register(engine)
    key_file = tmp_path / "dispatcher.db.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    environment.setenv("DISPATCHER_DATABASE_URL", sqlite_outpost.settings.database_url)
    ring = open_deployment(load(), SystemClock()).keyring
    [endpoint], [secret] = await sqlite_outpost.rows("endpoints"), await sqlite_outpost.rows("endpoint_secrets")
    assert SigningKeys.read(ring.open(secret.sealed, "secret", endpoint.row_id)).secret.text == callback.secret
    assert ring.open(endpoint.url_sealed, "url", endpoint.row_id) == URL


async def test_the_key_file_of_another_database_seals_nothing(
    outpost: Outpost, engine: Engine, environment: pytest.MonkeyPatch
) -> None:
    # A producer that has its own engine and forgot the settings, whose default is a SQLite file.
    environment.setenv("DISPATCHER_DATABASE_URL", "sqlite:///another.db")
    with pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        _register(engine)
    with engine.connect() as connection, pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        register_callback(connection, job_id="job_1", url=URL)
    for table in ("endpoints", "endpoint_secrets", "destinations", "subscriptions"):
        assert await outpost.count(table) == 0


async def test_a_key_in_the_environment_needs_no_other_setting(
    outpost: Outpost, engine: Engine, producer_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    callback = _register(engine)
    [secret] = await outpost.rows("endpoint_secrets")
    opened = outpost.deployment.keyring.open(secret.sealed, "secret", secret.endpoint_row)
    assert SigningKeys.read(opened).secret.text == callback.secret
    assert not list(tmp_path.glob("*.key"))


async def test_the_deployments_defaults_hold_for_what_is_not_given(
    outpost: Outpost, engine: Engine, producer_environment: pytest.MonkeyPatch
) -> None:
    producer_environment.setenv(
        "DISPATCHER_ENDPOINT_DEFAULTS",
        '{"profile": "flat", "signature_header": "X-Agent-Signature", "signature_prefix": "sha256=", "timeout_s": 5}',
    )
    _register(engine, profile="raw", timeout_s=None)
    [row] = await outpost.rows("endpoints")
    assert (row.profile, row.timeout_s) == ("raw", None)
    assert (row.signature_header, row.signature_prefix) == ("X-Agent-Signature", "sha256=")


@pytest.mark.parametrize("setting", ["DISPATCHER_ENDPOINT_DEFAULTS", "DISPATCHER_SECRET_KEY"])
def test_a_wrong_setting_is_the_operators_fault_and_named(
    producer_environment: pytest.MonkeyPatch, setting: str
) -> None:
    producer_environment.setenv(setting, '{"profile": "xml"}')
    session = Session()
    with pytest.raises(ConfigurationError, match=setting):
        register_callback(session, job_id="job_1", url=URL)
    assert not session.new


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"url": "https://client.example/\ud800"}, "url"),
        ({"url": b"https://client.example/"}, "url"),
        ({"job_id": "\ud800"}, "job_id"),
        ({"expires_in": 3600}, "expires_in"),
        ({"expires_in": timedelta.max}, "expires_in"),
        ({"expires_in": timedelta(seconds=-1)}, "expires_in"),
        ({"retry_schedule": [-1]}, "retry_schedule"),
        ({"headers": {"X-A": "***"}}, "headers"),
    ],
    ids=str,
)
def test_what_no_endpoint_can_have_is_refused_before_anything_is_pending(
    producer_environment: pytest.MonkeyPatch, wrong: dict[str, Any], field: str
) -> None:
    session = Session()
    with pytest.raises(InvalidField) as refused:
        register_callback(session, **{"job_id": "job_1", "url": URL, **wrong})
    assert refused.value.field.split("/")[0] == field
    assert not session.new
