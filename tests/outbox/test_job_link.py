"""A link made by a producer opens the job at the API of the same deployment."""

import base64
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import dispatcher
from dispatcher.errors import ConfigurationError, InvalidField
from dispatcher.outbox.callbacks import producer_keyring
from dispatcher.outbox.publish import producer_settings
from dispatcher.rules import job_links
from dispatcher.service.jobs import read_link
from tests.outpost import Outpost


def test_a_producer_s_link_is_read_by_the_deployment(
    outpost: Outpost, producer_environment: pytest.MonkeyPatch
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    link = dispatcher.job_link("job/1", tenant="acme", expires_in=timedelta(minutes=10))
    assert link.path == f"/v1/jobs/job%2F1/events?token={link.token}"
    assert timedelta(minutes=10) <= link.expires_at - before <= timedelta(minutes=11)
    read = read_link(outpost.deployment, link.token)
    assert read is not None
    assert (read.tenant, read.job_id, read.expires_at) == ("acme", "job/1", link.expires_at)
    assert link.token not in repr(link)


def test_on_sqlite_the_key_file_beside_the_database_signs(
    producer_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    producer_environment.delenv("DISPATCHER_SECRET_KEY")
    producer_environment.setenv("DISPATCHER_DATABASE_URL", f"sqlite:///{tmp_path}/app.db")
    producer_settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        dispatcher.job_link("job_1")
    assert not list(tmp_path.iterdir())
    (tmp_path / "app.db").touch()
    dispatcher.job_link("job_1")
    assert (tmp_path / "app.db.key").exists()


def test_the_key_of_a_command_signs_though_no_database_is_there(
    producer_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = base64.b64encode(b"k" * 32).decode()
    producer_environment.delenv("DISPATCHER_SECRET_KEY")
    producer_environment.setenv("DISPATCHER_SECRET_KEY_COMMAND", shlex.join([sys.executable, "-c", f"print({key!r})"]))
    producer_environment.setenv("DISPATCHER_DATABASE_URL", f"sqlite:///{tmp_path}/app.db")
    producer_settings.cache_clear()
    assert job_links.read([b"k" * 32], dispatcher.job_link("job_1").token) is not None
    assert not list(tmp_path.iterdir())


def test_without_a_key_on_postgresql_it_is_refused(producer_environment: pytest.MonkeyPatch) -> None:
    producer_environment.delenv("DISPATCHER_SECRET_KEY")
    producer_environment.setenv("DISPATCHER_DATABASE_URL", "postgresql://nobody@127.0.0.1/app")
    producer_settings.cache_clear()
    producer_keyring.cache_clear()
    with pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        dispatcher.job_link("job_1")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("job_id", {"job_id": ""}),
        ("job_id", {"job_id": "a\nb"}),
        ("tenant", {"tenant": "x" * 129}),
        ("expires_in", {"expires_in": timedelta(days=8)}),
        ("expires_in", {"expires_in": timedelta(0)}),
        ("expires_in", {"expires_in": 600}),
    ],
)
def test_what_makes_no_sense_is_refused(
    producer_environment: pytest.MonkeyPatch, field: str, given: dict[str, object]
) -> None:
    with pytest.raises(InvalidField) as refused:
        dispatcher.job_link(**{"job_id": "job_1", **given})  # type: ignore[arg-type]
    assert refused.value.field == field
