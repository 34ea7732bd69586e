"""Registering endpoints: vetted fields and the deployment's defaults become rows, once per idempotency key."""

import hmac
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import Conflict, InvalidField
from dispatcher.ids import Kind, public_id
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.derived_keys import derived_key
from dispatcher.rules.secrets import Secret
from dispatcher.service.endpoint_views import view_with_secret
from dispatcher.service.fields import JOB_ID_LENGTH
from dispatcher.service.models import CallbackCreate, EndpointCreate, EndpointWithSecret
from dispatcher.service.moments import moment_now
from dispatcher.service.quotas import check_room, hold_room
from dispatcher.service.scope import text_filter, within
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_credentials import EndpointCredentials
from dispatcher.store.endpoint_fields import endpoint_defaults
from dispatcher.store.endpoint_rows import NewEndpoint, callback_row, insert_endpoint, new_endpoint_row


async def create(
    deployment: Deployment,
    body: EndpointCreate,
    *,
    tenant: str,
    idempotency_key: str | None = None,
    max_endpoints: int | None = None,
) -> tuple[EndpointWithSecret, bool]:
    """Stores an endpoint of `body.tenant`, else of `tenant`; the caller's right to name it was checked.

    The second value is false when the same idempotency key had stored it before; its secret is told again then.
    Raises `InvalidField`, `Conflict` when the key came with another body before, and `OverQuota` where the tenant had
    `max_endpoints` already.
    """
    if idempotency_key is not None and not text_filter("idempotency_key", idempotency_key):
        raise InvalidField("idempotency_key", "must not be empty")
    new = replace(
        _vetted(deployment, body, new_endpoint_row(), body.tenant or tenant),
        idempotency_key=idempotency_key,
        request_digest=_digests(deployment, body)[0] if idempotency_key else None,
    )
    endpoints = deployment.database.tables.endpoints.c
    async with deployment.database.begin() as connection:
        now = await moment_now(connection, deployment.database)
        if await _insert(connection, deployment, new, now, max_endpoints):
            return await view_with_secret(connection, deployment, new.row_id), True
        before = (
            await connection.execute(
                select(endpoints.row_id, endpoints.request_digest).where(
                    within(new.tenant, endpoints.tenant), endpoints.idempotency_key == idempotency_key
                )
            )
        ).one()
        if before.request_digest not in _digests(deployment, body):
            raise Conflict(
                f"the Idempotency-Key was used for {public_id(Kind.ENDPOINT, before.row_id)} with another body;"
                " use a fresh key for another endpoint"
            )
        return await view_with_secret(connection, deployment, before.row_id), False


async def create_callback(
    deployment: Deployment, job_id: str, body: CallbackCreate, *, tenant: str, max_endpoints: int | None = None
) -> tuple[EndpointWithSecret, bool]:
    """Binds a URL to a job; the same tenant, job and URL again is the same endpoint (false), as it stands.

    Raises `InvalidField`, and `OverQuota` where the tenant had `max_endpoints` already.
    """
    if not 1 <= len(text_filter("job_id", job_id)) <= JOB_ID_LENGTH:
        raise InvalidField("job_id", f"must be 1 to {JOB_ID_LENGTH} characters")
    owner = body.tenant or tenant
    new = replace(_vetted(deployment, body, callback_row(owner, job_id, body.url), owner), job_id=job_id)
    async with deployment.database.begin() as connection:
        now = await moment_now(connection, deployment.database)
        if body.expires_in_s is not None:
            new = replace(new, expires_at=now + timedelta(seconds=body.expires_in_s))
        stored = await _insert(connection, deployment, new, now, max_endpoints)
        return await view_with_secret(connection, deployment, new.row_id), stored


def _vetted(deployment: Deployment, body: EndpointCreate | CallbackCreate, row_id: int, tenant: str) -> NewEndpoint:
    fields = {**endpoint_defaults(deployment.settings), **body.columns()}
    return NewEndpoint(
        row_id=row_id,
        tenant=tenant,
        url=CallbackUrl.parse(body.url, deployment.egress),
        secret=Secret.parse(body.secret) if body.secret is not None else Secret.generate(),
        takes_default=body.secret is None,
        credentials=EndpointCredentials().changed(body.credentials(), deployment.egress, deployment.clock.now()),
        verify_endpoints=deployment.settings.verify_endpoints,
        **fields,
    )


async def _insert(
    connection: AsyncConnection, deployment: Deployment, new: NewEndpoint, now: datetime, max_endpoints: int | None
) -> bool:
    tables = deployment.database.tables
    if max_endpoints is not None:
        await hold_room(connection, tables, new.tenant)
    stored = await connection.run_sync(insert_endpoint, tables, deployment.keyring, new, now)
    if stored and max_endpoints is not None:
        await check_room(connection, tables, new.tenant, max_endpoints)
    return stored


def _digests(deployment: Deployment, body: EndpointCreate) -> list[str]:
    # Keyed, since the body holds a secret that may be short; one per key, so that a new one changes nothing.
    content: dict[str, Any] = body.model_dump(mode="json", include=body.model_fields_set)
    text = json.dumps(content, sort_keys=True).encode()
    keys = (derived_key(key, "endpoint request") for key in deployment.keyring.keys)
    return [hmac.digest(key, text, "sha256").hex() for key in keys]
