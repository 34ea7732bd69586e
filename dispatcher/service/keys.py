"""API keys: made once, kept as digests, and turned back into the caller that they stand for."""

import asyncio
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.engine import Row

from dispatcher.errors import InvalidField, NotFound
from dispatcher.ids import Kind, public_id, row_id
from dispatcher.rules import json_text
from dispatcher.service.models import Key, KeyCreate, KeyWithSecret, Page
from dispatcher.service.moments import moment_now
from dispatcher.service.pages import DEFAULT_PAGE, Order, fetch_page
from dispatcher.service.scope import within
from dispatcher.states import Scope
from dispatcher.store.deployment import Deployment

#: What every key begins with.
PREFIX = "whk_"
#: How long a process may believe what it read about a key, in seconds. Who revokes one waits for as long.
BELIEVED_S = 1.0
#: An admin key of fewer characters may be guessed.
SHORTEST_ADMIN_KEY = 24
#: How often a key's last use is written down at most, in seconds.
USE_NOTED_EVERY_S = 60.0

_RANDOM_BYTES = 32
_HINT_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """Who presented a key or a link, and what it may do."""

    #: Whose things it sees; null: every tenant's.
    tenant: str | None
    scopes: frozenset[Scope]
    #: The key's id; null: the admin key of the settings, or a link.
    key_id: str | None = None
    #: By a link, which opens this job's events and nothing else.
    job_id: str | None = None


#: Who has the admin key of the settings.
ADMIN = Caller(tenant=None, scopes=frozenset(Scope))


@dataclass(frozen=True, slots=True)
class Found:
    """A key that holds now."""

    row_id: int
    caller: Caller
    #: For how long it still holds; null: until it is revoked.
    expires_in_s: float | None
    #: Nobody wrote down for a while that it is used.
    use_is_news: bool


async def create(deployment: Deployment, body: KeyCreate) -> KeyWithSecret:
    """Makes a key; its text is in this answer only. Raises `InvalidField` for an expiry that has passed."""
    text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    api_keys = deployment.database.tables.api_keys
    async with deployment.database.begin() as connection:
        now = await moment_now(connection, deployment.database)
        expires_at = body.expires_at if body.expires_in_s is None else now + timedelta(seconds=body.expires_in_s)
        if expires_at is not None and expires_at <= now:
            raise InvalidField("expires_at", "has passed; give a later time")
        row = (
            await connection.execute(
                api_keys.insert()
                .values(
                    tenant=body.tenant,
                    digest=digest_of(text),
                    hint=text[:_HINT_LENGTH],
                    scopes=json.dumps(body.allowed),
                    created_at=now,
                    expires_at=expires_at,
                )
                .returning(*api_keys.c)
            )
        ).one()
    return KeyWithSecret(**dict(_view(row)), key=text)


async def list_page(
    deployment: Deployment, *, tenant: str | None = None, limit: int = DEFAULT_PAGE, cursor: str | None = None
) -> Page[Key]:
    """A part of the keys, revoked ones too, newest first. Raises `InvalidField`."""
    api_keys = deployment.database.tables.api_keys
    statement = select(api_keys).where(within(tenant, api_keys.c.tenant))
    async with deployment.database.read() as connection:
        rows, following = await fetch_page(
            connection, statement, Order("keys", (api_keys.c.row_id,)), limit=limit, cursor=cursor
        )
    return Page[Key](data=[_view(row) for row in rows], next_cursor=following)


async def revoke(deployment: Deployment, key_id: str) -> None:
    """Once this returns, every process refuses the key; revoking it again changes nothing. Raises `NotFound`."""
    database = deployment.database
    api_keys = database.tables.api_keys
    named = api_keys.c.row_id == row_id(Kind.KEY, key_id)
    async with database.begin() as connection:
        if (await connection.execute(select(api_keys.c.row_id).where(named))).one_or_none() is None:
            raise NotFound(f"no key {key_id}; GET /v1/keys lists them")
        await connection.execute(
            api_keys.update().where(named, api_keys.c.revoked_at.is_(None)).values(revoked_at=database.now())
        )
    # Until then a process may believe what it had read before.
    await asyncio.sleep(BELIEVED_S)


async def look_up(deployment: Deployment, digest: str) -> Found | None:
    """The key of a digest; null: there is none, or it has expired or was revoked."""
    database = deployment.database
    k = database.tables.api_keys.c
    holds = (k.digest == digest, k.revoked_at.is_(None), or_(k.expires_at.is_(None), k.expires_at > database.now()))
    async with database.read() as connection:
        row = (
            await connection.execute(
                select(k.row_id, k.tenant, k.scopes, k.expires_at, k.last_used_at, database.now().label("now")).where(
                    *holds
                )
            )
        ).one_or_none()
    if row is None:
        return None
    unused_s = None if row.last_used_at is None else (row.now - row.last_used_at).total_seconds()
    return Found(
        row_id=row.row_id,
        caller=Caller(row.tenant, _granted(row.tenant, row.scopes), key_id=public_id(Kind.KEY, row.row_id)),
        expires_in_s=None if row.expires_at is None else (row.expires_at - row.now).total_seconds(),
        use_is_news=unused_s is None or unused_s >= USE_NOTED_EVERY_S,
    )


async def note_uses(deployment: Deployment, rows: Collection[int]) -> None:
    """Writes down that these keys are used, where that was not done for a while."""
    database = deployment.database
    api_keys = database.tables.api_keys
    async with database.begin() as connection:
        now = await moment_now(connection, database)
        before = now - timedelta(seconds=USE_NOTED_EVERY_S)
        await connection.execute(
            api_keys.update()
            .where(
                api_keys.c.row_id.in_(rows),
                or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= before),
            )
            .values(last_used_at=now)
        )


def digest_of(text: str) -> str:
    """What is kept of a key, and what it is found by."""
    # What is no UTF-8 comes as surrogates; no key of ours has such characters.
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _granted(tenant: str | None, scopes: str) -> frozenset[Scope]:
    # A word that there is not, of a later version, grants nothing.
    words = json_text.read(scopes, list[str], [])
    known = frozenset(scope for scope in Scope if scope in words)
    if tenant is not None:
        # Whoever wrote that by hand meant something else.
        return known - {Scope.ADMIN}
    return frozenset(Scope) if Scope.ADMIN in known else known


def _view(row: Row[Any]) -> Key:
    return Key(
        id=public_id(Kind.KEY, row.row_id),
        tenant=row.tenant,
        scopes=json_text.read(row.scopes, list[str], []),
        hint=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
