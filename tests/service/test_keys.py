"""API keys: shown once, kept as digests, refused once revoked."""

import pytest
from sqlalchemy import select

from dispatcher.errors import InvalidFields, NotFound
from dispatcher.service import keys
from dispatcher.service.keys import Caller
from dispatcher.service.models import KeyCreate
from tests.clock import FakeClock
from tests.service.conftest import open_scene
from tests.service.scene import Scene


async def test_a_key_stands_for_its_tenant_until_it_is_revoked(scene: Scene) -> None:
    made = await keys.create(scene.deployment, KeyCreate(tenant="acme"))
    assert made.key.startswith("whk_")
    assert await keys.authenticate(scene.deployment, made.key) == Caller(tenant="acme", admin=False)
    await keys.revoke(scene.deployment, made.id)
    assert await keys.authenticate(scene.deployment, made.key) is None
    revoked_at = scene.clock.now()
    scene.clock.advance(60)
    await keys.revoke(scene.deployment, made.id)
    assert [key.revoked_at for key in (await keys.list_page(scene.deployment)).data] == [revoked_at]


async def test_a_key_is_neither_stored_nor_shown_again(sqlite_scene: Scene) -> None:
    made = await keys.create(sqlite_scene.deployment, KeyCreate(tenant="acme"))
    async with sqlite_scene.deployment.database.read() as connection:
        row = (await connection.execute(select(sqlite_scene.deployment.database.tables.api_keys))).one()
    (listed,) = (await keys.list_page(sqlite_scene.deployment)).data
    for shown in (repr(tuple(row)), listed.model_dump_json(), repr(made)):
        assert made.key not in shown
    assert made.key.startswith(listed.hint)
    assert len(listed.hint) == 8
    assert listed.scopes == ["tenant"]


@pytest.mark.parametrize("presented", ["", "whk_", "nobody's", "a\x00b", "\ud800", "é"])
async def test_what_is_no_key_stands_for_nobody(sqlite_scene: Scene, presented: str) -> None:
    assert await keys.authenticate(sqlite_scene.deployment, presented) is None


async def test_the_settings_admin_key_sees_every_tenant(sqlite_url: str, clock: FakeClock) -> None:
    async with open_scene(sqlite_url, clock, admin_key="an-admin-key-of-length") as scene:
        assert await keys.authenticate(scene.deployment, "an-admin-key-of-length") == Caller(tenant=None, admin=True)
        assert await keys.authenticate(scene.deployment, "an-admin-key-of-lengt") is None


async def test_keys_are_listed_newest_first_and_by_tenant(scene: Scene) -> None:
    made = [await keys.create(scene.deployment, KeyCreate(tenant=tenant)) for tenant in ("a", "b", "a")]
    first = await keys.list_page(scene.deployment, limit=2)
    second = await keys.list_page(scene.deployment, limit=2, cursor=first.next_cursor)
    assert [key.id for key in first.data + second.data] == [key.id for key in made[::-1]]
    assert [key.id for key in (await keys.list_page(scene.deployment, tenant="b")).data] == [made[1].id]


async def test_an_unknown_key_cannot_be_revoked(sqlite_scene: Scene) -> None:
    for key_id in ("key_0000000000000", "nonsense"):
        with pytest.raises(NotFound):
            await keys.revoke(sqlite_scene.deployment, key_id)


def test_a_key_names_its_tenant_and_known_scopes() -> None:
    for payload in ({}, {"tenant": ""}, {"tenant": "a", "scopes": ["admin"]}, {"tenant": "a", "scopes": []}):
        with pytest.raises(InvalidFields):
            KeyCreate.read(payload)
