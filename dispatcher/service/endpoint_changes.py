"""Changing endpoints: each change raises the version, so that every attempt begun after the answer sees it."""

import json
from typing import Any, Literal, assert_never

from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import Conflict
from dispatcher.redaction import REDACTED
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.service.endpoint_views import find, status_of, view
from dispatcher.service.models import Endpoint, EndpointUpdate
from dispatcher.service.moments import moment_now
from dispatcher.service.quotas import check_room, hold_room
from dispatcher.states import EndpointStatus, Reason
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_credentials import FIELDS as CREDENTIALS
from dispatcher.store.endpoint_credentials import open_credentials
from dispatcher.store.endpoint_rows import (
    WIPED,
    check_headers,
    destination_row,
    event_types_text,
    open_headers,
    open_url,
    schedule_text,
    seal_headers,
    seal_url,
    signatures_text,
    subscribe,
    unsubscribe,
)
from dispatcher.store.keyring import Unreadable
from dispatcher.store.proof_demand import demands_proof
from dispatcher.store.transitions import cancel_endpoint

Action = Literal["enable", "disable", "pause", "resume"]

#: Deliveries cancelled in one transaction.
_CANCEL_BATCH = 500


async def update(deployment: Deployment, endpoint_id: str, body: EndpointUpdate, *, tenant: str | None) -> Endpoint:
    """Sets the fields that were given. Raises `NotFound`, `InvalidField`."""
    tables = deployment.database.tables
    async with deployment.database.begin() as connection:
        row = await find(connection, tables, endpoint_id, tenant, lock=True)
        if not body.model_fields_set:
            return await view(connection, tables, row.row_id)
        values = {name: value for name, value in body.columns().items() if name != "headers"}
        if "event_types" in values:
            values["event_types"] = event_types_text(values["event_types"])
        if "retry_schedule" in values:
            values["retry_schedule"] = schedule_text(values["retry_schedule"])
        if "signatures" in values:
            values["signatures"] = signatures_text(values["signatures"])
        if "metadata" in values:
            values["metadata"] = json.dumps(values["metadata"], ensure_ascii=False)
        if "heartbeat_s" in values:
            values["heartbeat_due_at"] = None if values["heartbeat_s"] is None else deployment.database.now()
        if "url" in body.model_fields_set:
            values |= await _url_columns(connection, deployment, row.row_id, body.url)
            if _is_another(deployment, row, body.url):
                values |= await _unproved(connection, deployment, row)
        values |= _secret_columns(deployment, row, body, values.get("url_shown", row.url_shown))
        await apply(connection, deployment.database, row, values)
        if "event_types" in values and row.status != EndpointStatus.DISABLED:
            await connection.run_sync(subscribe, tables, row.row_id)
        return await view(connection, tables, row.row_id)


async def set_status(
    deployment: Deployment, endpoint_id: str, action: Action, *, tenant: str | None, max_endpoints: int | None = None
) -> Endpoint:
    """enabled ⇄ paused by `pause` and `resume`, either → disabled by `disable`, any → enabled by `enable`.

    Disabling cancels what waits. Raises `NotFound`, `Conflict` where the status does not allow it, and `OverQuota`
    where one that had expired, and so was not counted, would be one more than the tenant's `max_endpoints`.
    """
    tables = deployment.database.tables
    async with deployment.database.begin() as connection:
        if tenant is not None and max_endpoints is not None:
            # Before the endpoint's row is locked, as where one is registered.
            await hold_room(connection, tables, tenant)
        row = await find(connection, tables, endpoint_id, tenant, lock=True)
        before, after = status_of(row), _status_after(action)
        if before is EndpointStatus.DISABLED and action in ("pause", "resume"):
            raise Conflict(f"the endpoint is disabled ({row.disabled_reason}); enable it first")
        if after is EndpointStatus.ENABLED:
            await check_proved(connection, deployment, row)
        if before is not after:
            values: dict[str, Any] = {"status": after, "disabled_reason": None, "awaits_proof": False}
            if after is EndpointStatus.DISABLED:
                values["disabled_reason"] = Reason.OPERATOR
                await connection.run_sync(unsubscribe, tables, row.row_id)
            elif before is EndpointStatus.DISABLED:
                values |= await _start_afresh(connection, deployment.database, row)
            await apply(connection, deployment.database, row, values)
            if row.disabled_reason == Reason.EXPIRED and max_endpoints is not None:
                await check_room(connection, tables, row.tenant, max_endpoints)
        elif after is EndpointStatus.PAUSED and row.awaits_proof:
            # From now on by who asks for it too, so that a proof does not enable it.
            await apply(connection, deployment.database, row, {"awaits_proof": False})
        changed = await view(connection, tables, row.row_id)
    if after is EndpointStatus.DISABLED:
        await _cancel_waiting(deployment.database, row.row_id, Reason.OPERATOR)
    return changed


async def delete(deployment: Deployment, endpoint_id: str, *, tenant: str | None) -> None:
    """Deletes an endpoint: its secrets are gone, what waits is cancelled, its history stays. Raises `NotFound`."""
    tables = deployment.database.tables
    async with deployment.database.begin() as connection:
        row = await find(connection, tables, endpoint_id, tenant, lock=True)
        for table in (tables.endpoint_secrets, tables.subscriptions):
            await connection.execute(table.delete().where(table.c.endpoint_row == row.row_id))
        await apply(
            connection,
            deployment.database,
            row,
            {
                "status": EndpointStatus.DISABLED,
                "disabled_reason": Reason.ENDPOINT_DELETED,
                **WIPED,
                "idempotency_key": None,
                "request_digest": None,
                "deleted_at": deployment.database.now(),
            },
        )
    await _cancel_waiting(deployment.database, row.row_id, Reason.ENDPOINT_DELETED)


async def apply(connection: AsyncConnection, database: Database, row: Row[Any], values: dict[str, Any]) -> None:
    """Sets columns of an endpoint under its next version, so that attempts that begin after the commit see them."""
    endpoints = database.tables.endpoints
    await connection.execute(
        endpoints.update()
        .where(endpoints.c.row_id == row.row_id)
        .values(**values, version=endpoints.c.version + 1, updated_at=database.now())
    )


async def check_proved(connection: AsyncConnection, deployment: Deployment, row: Row[Any]) -> None:
    """Raises `Conflict` for an endpoint that must prove first that its owner wants what is sent to it."""
    if row.verified_at is None and await _demands_proof(connection, deployment, row.tenant):
        raise Conflict(
            "its owner has not proved yet to want what is sent to it; POST …/verify (`endpoints verify`) asks"
            " again; once it has answered the challenge, enable it"
        )


async def _demands_proof(connection: AsyncConnection, deployment: Deployment, tenant: str) -> bool:
    by_deployment = deployment.settings.verify_endpoints
    return await connection.run_sync(demands_proof, deployment.database.tables, tenant, by_deployment)


async def _url_columns(
    connection: AsyncConnection, deployment: Deployment, endpoint_row: int, text: str
) -> dict[str, Any]:
    url = CallbackUrl.parse(text, deployment.egress)
    return {
        "url_sealed": seal_url(deployment.keyring, endpoint_row, url),
        "url_shown": url.shown,
        "destination_row": await connection.run_sync(destination_row, deployment.database.tables, url),
    }


def _is_another(deployment: Deployment, row: Row[Any], url: str) -> bool:
    try:
        return open_url(deployment.keyring, row.row_id, row.url_sealed) != url
    except Unreadable:
        return True


async def _unproved(connection: AsyncConnection, deployment: Deployment, row: Row[Any]) -> dict[str, Any]:
    """What was proved of another URL says nothing about this one."""
    if not await _demands_proof(connection, deployment, row.tenant):
        return {"verified_at": None}
    # Who had paused it before has reasons of their own.
    paused = {"status": EndpointStatus.PAUSED, "awaits_proof": True} if row.status == EndpointStatus.ENABLED else {}
    return {**paused, "verified_at": None, "challenge_due_at": deployment.database.now(), "challenges": 0}


def _secret_columns(deployment: Deployment, row: Row[Any], body: EndpointUpdate, url_shown: str) -> dict[str, Any]:
    """Headers and credentials, which have to go together with each other and with the URL."""
    given, keyring = body.model_fields_set, deployment.keyring
    if not given & {"url", "headers", "signature_header", *CREDENTIALS}:
        return {}
    credentials = open_credentials(keyring, row).changed(body.credentials(), deployment.egress, deployment.clock.now())
    # Opened only where needed: headers that nobody can decrypt any more are replaced by giving all of them.
    kept = "headers" not in given or REDACTED in body.headers.values()
    stored = open_headers(keyring, row.row_id, row.headers_sealed) if kept else {}
    headers = dict(body.headers) if "headers" in given else stored
    by_name = {name.lower(): value for name, value in stored.items()}
    headers = {
        name: by_name.get(name.lower(), value) if value == REDACTED else value for name, value in headers.items()
    }
    signature_header = body.signature_header if "signature_header" in given else row.signature_header
    check_headers(signature_header, headers, url_shown, credentials)
    return {
        "headers_sealed": seal_headers(keyring, row.row_id, headers),
        "header_names": json.dumps(list(headers)),
        **(credentials.columns(keyring, row.row_id) if given.intersection(CREDENTIALS) else {}),
    }


def _status_after(action: Action) -> EndpointStatus:
    match action:
        case "enable" | "resume":
            return EndpointStatus.ENABLED
        case "pause":
            return EndpointStatus.PAUSED
        case "disable":
            return EndpointStatus.DISABLED
    assert_never(action)


async def _start_afresh(connection: AsyncConnection, database: Database, row: Row[Any]) -> dict[str, Any]:
    """What was learnt while it failed is forgotten, and an expiry that has passed is lifted."""
    state = database.tables.endpoint_state
    await connection.run_sync(subscribe, database.tables, row.row_id)
    await connection.execute(
        state.update()
        .where(state.c.endpoint_row == row.row_id)
        .values(
            failures_in_row=0,
            backoff_failures=0,
            backoff_delivery=None,
            backoff_several=False,
            paused_until=None,
            ramp=None,
            takes=None,
            first_failure_at=None,
        )
    )
    past = row.expires_at is not None and row.expires_at <= await moment_now(connection, database)
    return {"expires_at": None} if past else {}


async def _cancel_waiting(database: Database, endpoint_row: int, reason: Reason) -> None:
    cancelled = _CANCEL_BATCH
    while cancelled == _CANCEL_BATCH:
        async with database.begin() as connection:
            cancelled = await cancel_endpoint(connection, database, endpoint_row, reason, _CANCEL_BATCH)
