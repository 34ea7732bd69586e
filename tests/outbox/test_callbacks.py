"""register_callback: a job's own URL, vetted and sealed, in the job's transaction."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from dispatcher import ConfigurationError, Conflict, InvalidField, register_callback
from dispatcher.outbox.callbacks import producer_keyring
from dispatcher.outbox.publish import producer_settings
from dispatcher.service import quotas
from dispatcher.service.models import TenantQuotaUpdate
from dispatcher.store.endpoint_credentials import open_credentials
from tests.outpost import Outpost

pytestmark = pytest.mark.usefixtures("producer_environment")
URL = "https://client.example/hook?token=abc"


async def test_it_is_an_endpoint_of_that_job_with_a_secret_of_its_own(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        one = register_callback(session, job_id="job_1", url=URL, event_types=["job.*"], profile="flat")
        other = register_callback(session, job_id="job_2", url=URL, tenant="acme", secret="their-own-secret")
    rows = {row.job_id: row for row in await outpost.rows("endpoints")}
    assert (rows["job_1"].tenant, rows["job_1"].profile, rows["job_2"].tenant) == ("default", "flat", "acme")
    assert one.secret.startswith("whsec_")
    assert other.secret == "their-own-secret"
    assert one.endpoint_id != other.endpoint_id
    assert "secret" not in repr(other)
    assert "abc" not in rows["job_1"].url_shown


async def test_the_same_job_and_url_again_is_the_same_endpoint_as_it_stands(
    outpost: Outpost, async_engine: AsyncEngine
) -> None:
    async with AsyncSession(async_engine) as session, session.begin():
        first = register_callback(session, job_id="job_1", url=URL)
    async with AsyncSession(async_engine) as session, session.begin():
        second = register_callback(session, job_id="job_1", url=URL, secret="another-secret")
    assert (second.endpoint_id, second.secret) == (first.endpoint_id, first.secret)
    assert await outpost.count("endpoints") == 1
    assert await outpost.count("endpoint_secrets") == 1


async def test_it_may_have_credentials_of_its_own(outpost: Outpost, engine: Engine) -> None:
    oauth2 = {"token_url": "https://auth.example/token", "client_id": "us", "client_secret": "s3cret-of-ours"}
    with Session(engine) as session, session.begin():
        register_callback(session, job_id="job_1", url=URL, oauth2=oauth2)
    (row,) = await outpost.rows("endpoints")
    stored = open_credentials(outpost.deployment.keyring, row)
    assert stored.oauth2 is not None
    assert (stored.oauth2.client_secret, stored.identity) == ("s3cret-of-ours", None)
    assert "s3cret-of-ours" not in repr(row)


async def test_its_secret_is_not_told_before_it_is_known(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        callback = register_callback(session, job_id="job_1", url=URL)
        with pytest.raises(Conflict, match="after the flush"):
            print(callback.secret)
        session.flush()
        early = callback.secret
    assert callback.secret == early


async def test_where_proof_is_demanded_it_waits_for_its_challenge(
    outpost: Outpost, engine: Engine, producer_environment: pytest.MonkeyPatch
) -> None:
    producer_environment.setenv("DISPATCHER_VERIFY_ENDPOINTS", "true")
    producer_settings.cache_clear()
    with Session(engine) as session, session.begin():
        register_callback(session, job_id="job_1", url=URL)
    (row,) = await outpost.rows("endpoints")
    assert (row.status, row.verified_at, row.challenge_due_at) == ("paused", None, row.created_at)


@pytest.mark.parametrize("by_deployment", ["true", "false"])
async def test_its_tenants_own_rule_goes_before_the_producers_setting(
    outpost: Outpost, engine: Engine, producer_environment: pytest.MonkeyPatch, by_deployment: str
) -> None:
    producer_environment.setenv("DISPATCHER_VERIFY_ENDPOINTS", by_deployment)
    producer_settings.cache_clear()
    for tenant, verify_endpoints in (("strict", True), ("trusted", False)):
        await quotas.update(outpost.deployment, tenant, TenantQuotaUpdate(verify_endpoints=verify_endpoints))
    with Session(engine) as session, session.begin():
        for tenant in ("strict", "trusted"):
            register_callback(session, job_id="job_1", url=URL, tenant=tenant)
    rows = {row.tenant: (row.status, row.challenge_due_at is not None) for row in await outpost.rows("endpoints")}
    assert rows == {"strict": ("paused", True), "trusted": ("enabled", False)}


async def test_it_expires_when_it_is_told_to(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        register_callback(session, job_id="job_1", url=URL, expires_in=timedelta(hours=1))
    (row,) = await outpost.rows("endpoints")
    assert row.expires_at - row.created_at == timedelta(hours=1)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"url": "ftp://x.example/"}, "url"),
        ({"url": "https://x.example/#f"}, "url"),
        ({"url": "http://10.0.0.1:8000/"}, "url"),
        ({"url": "https://x.example:22/"}, "url"),
        ({"job_id": ""}, "job_id"),
        ({"secret": "short"}, "secret"),
        ({"tenant": "x" * 129}, "tenant"),
        ({"event_types": ["a b"]}, "event_types"),
        ({"colour": "red"}, "colour"),
        ({"expires_in": timedelta(0)}, "expires_in"),
    ],
)
def test_what_is_wrong_is_refused_at_once(wrong: dict[str, object], field: str) -> None:
    session = Session()
    with pytest.raises(InvalidField) as caught:
        register_callback(session, **{"job_id": "job_1", "url": URL, **wrong})  # type: ignore[arg-type]
    assert caught.value.field.split("/")[0] == field
    assert not session.new


def test_without_a_key_nothing_is_written(producer_environment: pytest.MonkeyPatch, postgres_url: str) -> None:
    producer_environment.delenv("DISPATCHER_SECRET_KEY")
    producer_environment.setenv("DISPATCHER_DATABASE_URL", postgres_url)
    producer_settings.cache_clear()
    producer_keyring.cache_clear()
    session = Session()
    with pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        register_callback(session, job_id="job_1", url=URL)
    assert not session.new
