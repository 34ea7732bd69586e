"""Readiness tells the truth about database and schema."""

import pytest
from sqlalchemy.engine import make_url

from dispatcher.service import health
from dispatcher.store.deployment import open_deployment
from tests.service.conftest import settings_for
from tests.service.scene import Scene


async def test_a_migrated_database_that_answers_is_ready(scene: Scene) -> None:
    assert await health.readiness(scene.deployment) == (True, {"database": "ok", "schema": "ok"})


async def test_a_database_without_our_schema_is_not_ready(empty_database_url: str) -> None:
    deployment = open_deployment(settings_for(empty_database_url))
    try:
        ready, findings = await health.readiness(deployment)
    finally:
        await deployment.database.close()
    assert not ready
    assert findings["database"] == "ok"
    assert "dispatcher migrate" in findings["schema"]


async def test_a_database_that_does_not_answer_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatcher.store.database.OUTAGE_PATIENCE_S", 0.1)
    deployment = open_deployment(settings_for("postgresql://nobody@127.0.0.1:1/nothing"))
    try:
        ready, findings = await health.readiness(deployment)
    finally:
        await deployment.database.close()
    assert not ready
    assert findings["database"] != "ok"


async def test_a_database_that_refuses_us_is_not_ready_and_its_reason_is_not_public(
    empty_postgres_url: str,
) -> None:
    deployment = open_deployment(
        settings_for(make_url(empty_postgres_url).set(database="no_such_place").render_as_string(False))
    )
    try:
        ready, findings = await health.readiness(deployment)
    finally:
        await deployment.database.close()
    assert not ready
    assert "refuses" in findings["database"]
    assert "no_such_place" not in repr(findings)


async def test_a_file_that_was_deleted_under_open_connections_is_not_ready(sqlite_scene: Scene) -> None:
    file = sqlite_scene.deployment.database.url.file
    assert file is not None
    assert (await health.readiness(sqlite_scene.deployment))[0]
    file.unlink()
    ready, findings = await health.readiness(sqlite_scene.deployment)
    assert not ready
    assert "is gone" in findings["database"]
