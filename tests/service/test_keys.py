"""API keys: shown once, kept as digests, of a tenant or of none, refused once they are revoked or have expired."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from dispatcher.errors import InvalidField, InvalidFields, NotFound
from dispatcher.service import keys
from dispatcher.service.keys import Caller, Found
from dispatcher.service.models import KeyCreate
from dispatcher.states import Scope
from tests.service.scene import Scene

OF_A_TENANT = frozenset({Scope.PUBLISH, Scope.ENDPOINTS, Scope.READ})


@pytest.fixture(autouse=True)
def _nobody_believes_what_it_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process remembers a key here, so that revoking one need not wait."""
    monkeypatch.setattr(keys, "BELIEVED_S", 0.0)


async def found(scene: Scene, key: str) -> Found | None:
    return await keys.look_up(scene.deployment, keys.digest_of(key))


async def test_a_key_stands_for_its_tenant_until_it_is_revoked(scene: Scene) -> None:
    made = await keys.create(scene.deployment, KeyCreate(tenant="acme"))
    assert made.key.startswith("whk_")
    known = await found(scene, made.key)
    assert known is not None
    assert known.caller == Caller(tenant="acme", scopes=OF_A_TENANT, key_id=made.id)
    assert known.expires_in_s is None
    await keys.revoke(scene.deployment, made.id)
    assert await found(scene, made.key) is None
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
    assert listed.scopes == ["publish", "endpoints", "read"]


@pytest.mark.parametrize("presented", ["", "whk_", "nobody's", "a\x00b", "\ud800", "é"])
async def test_what_is_no_key_stands_for_nobody(sqlite_scene: Scene, presented: str) -> None:
    assert await found(sqlite_scene, presented) is None


async def test_a_key_expires_at_its_time(scene: Scene) -> None:
    made = await keys.create(scene.deployment, KeyCreate(tenant="acme", expires_in_s=90.0))
    assert made.expires_at == scene.clock.now() + timedelta(seconds=90)
    scene.clock.advance(89)
    known = await found(scene, made.key)
    assert known is not None
    assert known.expires_in_s == 1.0
    scene.clock.advance(1)
    assert await found(scene, made.key) is None


async def test_a_key_that_has_expired_already_is_not_made(sqlite_scene: Scene) -> None:
    with pytest.raises(InvalidField, match="expires_at"):
        await keys.create(sqlite_scene.deployment, KeyCreate(tenant="acme", expires_at=sqlite_scene.clock.now()))
    assert (await keys.list_page(sqlite_scene.deployment)).data == []


@pytest.mark.parametrize(
    ("given", "may"),
    [
        ([Scope.READ], frozenset({Scope.READ})),
        ([Scope.READ, Scope.PUBLISH, Scope.READ], frozenset({Scope.READ, Scope.PUBLISH})),
        ([Scope.ADMIN], frozenset(Scope)),
    ],
)
async def test_a_key_without_tenant_may_do_what_it_names(
    sqlite_scene: Scene, given: list[Scope], may: frozenset[Scope]
) -> None:
    made = await keys.create(sqlite_scene.deployment, KeyCreate(scopes=given))
    known = await found(sqlite_scene, made.key)
    assert known is not None
    assert (known.caller.tenant, known.caller.scopes) == (None, may)
    assert set(made.scopes) == set(given)
    assert len(made.scopes) == len(set(given))


async def test_a_tenants_row_that_somebody_made_an_admins_by_hand_is_none(sqlite_scene: Scene) -> None:
    made = await keys.create(sqlite_scene.deployment, KeyCreate(tenant="acme", scopes=[Scope.READ]))
    database = sqlite_scene.deployment.database
    for written, may in (('["admin","read","sudo"]', {Scope.READ}), ("nonsense", set())):
        async with database.begin() as connection:
            await connection.execute(database.tables.api_keys.update().values(scopes=written))
        known = await found(sqlite_scene, made.key)
        assert known is not None
        assert known.caller.scopes == may


async def test_its_last_use_is_written_down_once_a_minute(scene: Scene) -> None:
    made = await keys.create(scene.deployment, KeyCreate(tenant="acme"))

    async def use() -> bool:
        known = await found(scene, made.key)
        assert known is not None
        await keys.note_uses(scene.deployment, [known.row_id])
        return known.use_is_news

    first = scene.clock.now()
    assert await use()
    scene.clock.advance(59)
    assert not await use()
    (listed,) = (await keys.list_page(scene.deployment)).data
    assert listed.last_used_at == first
    scene.clock.advance(1)
    assert await use()
    (listed,) = (await keys.list_page(scene.deployment)).data
    assert listed.last_used_at == scene.clock.now()


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
    for payload in (
        {},
        {"tenant": ""},
        {"tenant": "a", "scopes": ["admin"]},
        {"tenant": "a", "scopes": ["read", "admin"]},
        {"tenant": "a", "scopes": []},
        {"tenant": "a", "scopes": ["root"]},
        {"scopes": None},
        {"tenant": "a", "expires_in_s": 0},
        {"tenant": "a", "expires_in_s": 5, "expires_at": "2040-01-01T00:00:00Z"},
    ):
        with pytest.raises(InvalidFields):
            KeyCreate.read(payload)
