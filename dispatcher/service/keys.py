"""API keys: made once, kept as digests, and turned back into the caller that they stand for."""

import hmac
import json
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Row

from dispatcher.errors import NotFound
from dispatcher.ids import Kind, public_id, row_id
from dispatcher.service.models import Key, KeyCreate, KeyWithSecret, Page
from dispatcher.service.pages import DEFAULT_PAGE, Order, fetch_page
from dispatcher.service.scope import within
from dispatcher.store.deployment import Deployment

_PREFIX = "whk_"
_RANDOM_BYTES = 32
_HINT_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """Who presented a key or a link; an administrator has no tenant and sees all."""

    tenant: str | None
    admin: bool
    #: By a link, which opens this job's events and nothing else.
    job_id: str | None = None


async def create(deployment: Deployment, body: KeyCreate) -> KeyWithSecret:
    """Makes a key; its text is in this answer only."""
    text = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    api_keys = deployment.database.tables.api_keys
    async with deployment.database.begin() as connection:
        row = (
            await connection.execute(
                api_keys.insert()
                .values(
                    tenant=body.tenant,
                    digest=_digest(text),
                    hint=text[:_HINT_LENGTH],
                    scopes=json.dumps(body.scopes),
                    created_at=deployment.database.now(),
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
    """The key is refused from now on; revoking it again changes nothing. Raises `NotFound`."""
    database = deployment.database
    api_keys = database.tables.api_keys
    named = api_keys.c.row_id == row_id(Kind.KEY, key_id)
    async with database.begin() as connection:
        if (await connection.execute(select(api_keys.c.row_id).where(named))).one_or_none() is None:
            raise NotFound(f"no key {key_id}; GET /v1/keys lists them")
        await connection.execute(
            api_keys.update().where(named, api_keys.c.revoked_at.is_(None)).values(revoked_at=database.now())
        )


async def authenticate(deployment: Deployment, presented: str) -> Caller | None:
    """Whom a presented key stands for; null for none, or a revoked one."""
    digest, admin = _digest(presented), deployment.settings.admin_key
    if admin is not None and hmac.compare_digest(digest, _digest(admin.get_secret_value())):
        return Caller(tenant=None, admin=True)
    api_keys = deployment.database.tables.api_keys.c
    async with deployment.database.read() as connection:
        tenant: str | None = (
            await connection.execute(
                select(api_keys.tenant).where(api_keys.digest == digest, api_keys.revoked_at.is_(None))
            )
        ).scalar_one_or_none()
    return None if tenant is None else Caller(tenant=tenant, admin=False)


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _view(row: Row[Any]) -> Key:
    return Key(
        id=public_id(Kind.KEY, row.row_id),
        tenant=row.tenant,
        scopes=json.loads(row.scopes),
        hint=row.hint,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
