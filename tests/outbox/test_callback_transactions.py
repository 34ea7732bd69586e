"""A callback URL shares its transaction's fate, as the job's own row does."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session

from dispatcher import Callback, ConfigurationError, publish, register_callback
from dispatcher.rules.key_pairs import SigningKeys
from tests.outbox.waiting import blocked
from tests.outpost import Outpost

pytestmark = pytest.mark.usefixtures("producer_environment")

URL = "https://client.example/hook?token=abc"
TABLES = ("destinations", "endpoints", "endpoint_secrets", "endpoint_state", "subscriptions")


async def _counts(outpost: Outpost) -> set[int]:
    return {await outpost.count(table) for table in TABLES}


def _before_the_flush(session: Session) -> None:
    register_callback(session, job_id="job_1", url=URL)
    session.rollback()


def _after_the_flush(session: Session) -> None:
    register_callback(session, job_id="job_1", url=URL)
    session.flush()
    session.rollback()


def _with_its_savepoint(session: Session) -> None:
    session.execute(text("INSERT INTO my_jobs VALUES ('job_1')"))
    inner = session.begin_nested()
    register_callback(session, job_id="job_1", url=URL)
    session.flush()
    inner.rollback()


def _after_its_savepoint(session: Session) -> None:
    with session.begin_nested():
        register_callback(session, job_id="job_1", url=URL)
    session.rollback()


@pytest.mark.parametrize(
    "rolled_back", [_before_the_flush, _after_the_flush, _with_its_savepoint, _after_its_savepoint]
)
async def test_a_registration_that_is_rolled_back_never_was(
    outpost: Outpost, engine: Engine, rolled_back: Callable[[Session], None]
) -> None:
    with Session(engine) as session:
        rolled_back(session)
        session.commit()
    assert await _counts(outpost) == {0}


async def test_it_can_be_registered_again_after_its_transaction_rolled_back(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session:
        lost = register_callback(session, job_id="job_1", url=URL)
        session.flush()
        session.rollback()
        kept = register_callback(session, job_id="job_1", url=URL)
        session.commit()
    assert kept.endpoint_id == lost.endpoint_id
    [row] = await outpost.rows("endpoint_secrets")
    opened = outpost.deployment.keyring.open(row.sealed, "secret", row.endpoint_row)
    assert SigningKeys.read(opened).secret.text == kept.secret != lost.secret


async def test_a_repeated_registration_in_the_same_transaction_has_the_stored_secret(
    outpost: Outpost, engine: Engine
) -> None:
    with Session(engine) as session:
        first = register_callback(session, job_id="job_1", url=URL)
        again = register_callback(session, job_id="job_1", url=URL, profile="raw")
        session.flush()
        assert (again.endpoint_id, again.secret) == (first.endpoint_id, first.secret)
        session.commit()
    [row] = await outpost.rows("endpoints")
    assert row.profile == "standard"


async def test_tenant_job_and_url_each_make_it_another_one(outpost: Outpost, engine: Engine) -> None:
    with engine.begin() as connection:
        made = {
            register_callback(connection, job_id=job_id, url=url, tenant=tenant).endpoint_id
            for tenant in ("default", "acme")
            for job_id in ("job_1", "job_2")
            for url in (URL, f"{URL}d")
        }
    assert len(made) == await outpost.count("endpoints") == 8
    assert await outpost.count("destinations") == 1


async def test_connections_and_scoped_sessions_register_too(
    outpost: Outpost, engine: Engine, async_engine: AsyncEngine
) -> None:
    def register(connection: Connection, job_id: str) -> Callback:
        return register_callback(connection, job_id=job_id, url=URL)

    with engine.begin() as connection:
        register(connection, "job_1")
    async with async_engine.begin() as async_connection:
        await async_connection.run_sync(register, "job_2")
        with pytest.raises(ConfigurationError, match="run_sync"):
            register_callback(async_connection, job_id="job_3", url=URL)  # type: ignore[arg-type]
    scoped = async_scoped_session(async_sessionmaker(async_engine), scopefunc=lambda: 1)
    register_callback(scoped, job_id="job_4", url=URL)
    await scoped.commit()
    await scoped.remove()
    assert [row.job_id for row in await outpost.rows("endpoints", "created_at")] == ["job_1", "job_2", "job_4"]


async def test_an_event_of_the_same_transaction_reaches_the_callback(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        publish(session, "job.accepted", {}, job_id="job_1")
        callback = register_callback(session, job_id="job_1", url=URL)
    async with outpost.store() as store:
        await store.fan_out(limit=10)
    [delivery] = await outpost.deliveries()
    [endpoint] = await outpost.rows("endpoints")
    assert delivery.endpoint_row == endpoint.row_id
    assert callback.endpoint_id.startswith("ep_")


async def test_of_two_transactions_at_once_the_second_gets_the_firsts_secret(
    postgres_outpost: Outpost, postgres_engine: Engine
) -> None:
    second: list[Callback] = []

    def register() -> None:
        with Session(postgres_engine) as session, session.begin():
            second.append(register_callback(session, job_id="job_1", url=URL))

    with Session(postgres_engine) as session:
        first = register_callback(session, job_id="job_1", url=URL)
        session.flush()
        other = threading.Thread(target=register)
        other.start()
        blocked(postgres_engine)
        session.commit()
        other.join()
    assert (second[0].endpoint_id, second[0].secret) == (first.endpoint_id, first.secret)
    assert await postgres_outpost.count("endpoint_secrets") == 1
