"""Stored endpoints as callers see them: found within their tenant, secrets left out."""

from typing import Any, TypedDict

from sqlalchemy import select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import NotFound
from dispatcher.ids import Kind, public_id, row_id
from dispatcher.redaction import REDACTED
from dispatcher.rules import json_text
from dispatcher.service.models import ClientCertificate, Endpoint, EndpointWithSecret, TokenSource
from dispatcher.service.scope import within
from dispatcher.states import EndpointStatus, Profile, Reason, SignatureVersion, read_word
from dispatcher.store.deployment import Deployment
from dispatcher.store.signing_secrets import newest
from dispatcher.store.tables import Tables


async def find(
    connection: AsyncConnection, tables: Tables, endpoint_id: str, tenant: str | None, *, lock: bool = False
) -> Row[Any]:
    """The row of an endpoint; `lock` keeps it from changing until the transaction ends. Raises `NotFound`."""
    endpoints = tables.endpoints
    statement = select(endpoints).where(
        endpoints.c.row_id == row_id(Kind.ENDPOINT, endpoint_id),
        endpoints.c.deleted_at.is_(None),
        within(tenant, endpoints.c.tenant),
    )
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    if row is None:
        raise NotFound(f"no endpoint {endpoint_id}; GET /v1/endpoints lists yours")
    return row


async def view(connection: AsyncConnection, tables: Tables, endpoint_row: int) -> Endpoint:
    """The endpoint as it stands now."""
    endpoints = tables.endpoints
    row = (await connection.execute(select(endpoints).where(endpoints.c.row_id == endpoint_row))).one()
    return endpoint_view(row)


async def view_with_secret(
    connection: AsyncConnection, deployment: Deployment, endpoint_row: int
) -> EndpointWithSecret:
    """The endpoint with the secret that it signs with, its own or its tenant's: for the answers that show it.

    Raises `Unreadable`.
    """
    tables = deployment.database.tables
    endpoint = await view(connection, tables, endpoint_row)
    return EndpointWithSecret(
        **dict(endpoint),
        secret=(await connection.run_sync(newest, tables, deployment.keyring, endpoint_row)).secret.text,
    )


class _Certificate(TypedDict):
    """What `endpoints.client_certificate_shown` holds."""

    subject: str
    sha256: str


class _TokenSource(TypedDict):
    """What `endpoints.oauth2_shown` holds."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str | None
    audience: str | None
    auth_method: str


def endpoint_view(row: Row[Any]) -> Endpoint:
    """A row of `endpoints` as an answer."""
    return Endpoint(
        id=public_id(Kind.ENDPOINT, row.row_id),
        tenant=row.tenant,
        url=row.url_shown,
        description=row.description,
        event_types=json_text.read(row.event_types, list[str], []),
        status=status_of(row),
        disabled_reason=disabled_reason_of(row),
        profile=read_word(Profile, row.profile, Profile.STANDARD),
        ordered=row.ordered,
        order_hold_s=row.order_hold_s,
        progress_interval_s=row.progress_interval_s,
        heartbeat_s=row.heartbeat_s,
        signatures=json_text.read(row.signatures, list[SignatureVersion], [SignatureVersion.V1]),
        signature_header=row.signature_header,
        signature_prefix=row.signature_prefix,
        headers=dict.fromkeys(json_text.read(row.header_names, list[str], []), REDACTED),
        rate_limit=row.rate_limit,
        max_in_flight=row.max_in_flight,
        retry_schedule=json_text.read(row.retry_schedule, list[float], None),
        timeout_s=row.timeout_s,
        metadata=json_text.read(row.metadata, dict[str, str], {}),
        client_certificate=_client_certificate(row),
        oauth2=_oauth2(row),
        job_id=row.job_id,
        expires_at=row.expires_at,
        secret_staged_at=row.staged_at,
        verified_at=row.verified_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _client_certificate(row: Row[Any]) -> ClientCertificate | None:
    shown = json_text.read(row.client_certificate_shown, _Certificate, None)
    if shown is None or row.client_certificate_expires_at is None:
        return None
    return ClientCertificate(expires_at=row.client_certificate_expires_at, **shown)


def _oauth2(row: Row[Any]) -> TokenSource | None:
    shown = json_text.read(row.oauth2_shown, _TokenSource, None)
    return None if shown is None else TokenSource(**shown)


def status_of(row: Row[Any]) -> EndpointStatus:
    """The status of a row of `endpoints`; with a word that there is not it is sent nothing."""
    return read_word(EndpointStatus, row.status, EndpointStatus.DISABLED)


def disabled_reason_of(row: Row[Any]) -> Reason | None:
    """Why an endpoint is disabled, where it is."""
    return read_word(Reason, row.disabled_reason, Reason.UNREADABLE) if row.disabled_reason else None
