"""The doctor finds what is wrong, says what to do, and changes nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dispatcher.service.doctor import Finding, _examine_egress, examine
from dispatcher.settings import load
from tests.clock import FakeClock
from tests.service.conftest import open_scene, settings_for
from tests.service.scene import Scene
from tests.transport.certificates import Authority


def of(findings: list[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


async def test_a_sound_deployment_has_no_complaint(scene: Scene) -> None:
    await scene.endpoint()
    findings = await examine(scene.deployment.settings)
    assert [finding for finding in findings if not finding.ok] == []
    assert {finding.check for finding in findings} == {
        "settings",
        "endpoint defaults",
        "egress",
        "database",
        "clock",
        "schema",
        "key ring",
        "dispatchers",
        "rows",
        "client certificates",
    }
    assert "opens what is stored" in of(findings, "key ring").detail


async def test_a_key_ring_that_does_not_open_what_is_stored_is_found(sqlite_scene: Scene) -> None:
    await sqlite_scene.endpoint()
    other = load(
        database_url=sqlite_scene.deployment.settings.database_url,
        secret_key="QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=",
    )
    finding = of(await examine(other), "key ring")
    assert not finding.ok
    assert "DISPATCHER_SECRET_KEY" in finding.remedy


async def test_a_missing_key_file_is_found_and_not_made(sqlite_scene: Scene, tmp_path: Path) -> None:
    await sqlite_scene.endpoint()
    finding = of(await examine(load(database_url=sqlite_scene.deployment.settings.database_url)), "key ring")
    assert (finding.ok, list(tmp_path.glob("*.key"))) == (False, [])


async def test_an_old_schema_is_found_with_its_command(empty_postgres_url: str) -> None:
    finding = of(await examine(settings_for(empty_postgres_url)), "schema")
    assert (finding.ok, finding.remedy) == (False, "dispatcher migrate")


async def test_a_database_that_is_not_there_is_found_and_not_made(empty_sqlite_url: str, tmp_path: Path) -> None:
    assert not of(await examine(settings_for(empty_sqlite_url)), "database").ok
    assert list(tmp_path.iterdir()) == []


async def test_a_database_that_does_not_answer_is_found_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatcher.store.database.OUTAGE_PATIENCE_S", 0.1)
    findings = await examine(settings_for("postgresql://nobody:pa55word@127.0.0.1:1/nothing"))
    assert not of(findings, "database").ok
    assert "pa55word" not in repr(findings)


async def test_events_that_wait_with_no_dispatcher_alive_are_found(sqlite_url: str) -> None:
    # The database's own clock decides whether a lease has ended; this one ended years ago.
    async with open_scene(sqlite_url, FakeClock(FakeClock().now().replace(year=2000))) as scene:
        assert of(await examine(scene.deployment.settings), "dispatchers").ok
        await scene.publish()
        finding = of(await examine(scene.deployment.settings), "dispatchers")
    assert not finding.ok
    assert "dispatcher serve" in finding.remedy


async def test_bad_endpoint_defaults_are_found(sqlite_url: str) -> None:
    finding = of(await examine(settings_for(sqlite_url, endpoint_defaults={"profile": "yaml"})), "endpoint defaults")
    assert not finding.ok
    assert "profile" in finding.detail


async def test_proxies_of_the_environment_are_said_to_be_ignored(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert "HTTPS_PROXY is ignored" in of(await examine(settings_for(sqlite_url)), "egress").detail


async def test_a_lease_shorter_than_a_poll_is_found(sqlite_url: str) -> None:
    assert not of(await examine(settings_for(sqlite_url, lease="1s", poll_interval="2s")), "settings").ok


async def test_an_admin_key_that_can_be_guessed_is_found(sqlite_url: str) -> None:
    finding = of(await examine(settings_for(sqlite_url, admin_key="admin")), "settings")
    assert not finding.ok
    assert "openssl rand" in finding.remedy
    assert of(await examine(settings_for(sqlite_url, admin_key="a-key-that-nobody-guesses")), "settings").ok


@pytest.mark.parametrize("days", [-1, 29, 31])
async def test_a_client_certificate_that_ends_soon_is_found(scene: Scene, tmp_path: Path, days: int) -> None:
    authority, now = Authority.make(tmp_path / "authority"), datetime.now(UTC)
    certificate, key = authority.client("us", at=scene.clock.now())
    endpoint = await scene.endpoint(client_certificate=certificate, client_key=key)
    await scene.endpoint()
    e = scene.deployment.database.tables.endpoints
    async with scene.deployment.database.begin() as connection:
        await connection.execute(
            e.update()
            .where(e.c.client_certificate_expires_at.is_not(None))
            .values(client_certificate_expires_at=now + timedelta(days=days))
        )
    finding = of(await examine(scene.deployment.settings), "client certificates")
    assert finding.ok is (days > 30)
    assert (endpoint.id in finding.detail) is (days < 30)


def test_a_file_of_authorities_that_holds_none_is_found(tmp_path: Path) -> None:
    file = tmp_path / "authorities.pem"
    file.write_text("none")
    finding = _examine_egress(load(database_url="sqlite:///d.db", ca_file=str(file)))
    assert not finding.ok
    assert "DISPATCHER_CA_FILE" in finding.detail
