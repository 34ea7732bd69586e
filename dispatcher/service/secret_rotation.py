"""Rotating an endpoint's secret: at once, or staged, so that it signs only when its receiver has accepted it."""

from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import Conflict, InvalidField
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.service.endpoint_changes import apply, check_proved
from dispatcher.service.endpoint_views import find, view, view_with_secret
from dispatcher.service.models import ActivateSecret, Endpoint, EndpointWithSecret, RotateSecret
from dispatcher.service.moments import moment_now
from dispatcher.store import staged_secrets
from dispatcher.store.deployment import Deployment
from dispatcher.store.keyring import KeyRing, Unreadable
from dispatcher.store.signing_secrets import newest, rotate_own
from dispatcher.store.staged_secrets import Staged


async def rotate_secret(
    deployment: Deployment, endpoint_id: str, body: RotateSecret, *, tenant: str | None
) -> EndpointWithSecret:
    """Signs with a new secret, its own from now on, and for `body.overlap_s` seconds with the old one too.

    With `body.stage` the new one signs nothing yet, and the overlap begins when it is activated. Either takes the
    place of what is staged already. Raises `NotFound`, `InvalidField` for the secret that signs already, and
    `Conflict` where the old one is to sign on and cannot be read.
    """
    tables, keyring = deployment.database.tables, deployment.keyring
    new = SigningKeys.beside(Secret.parse(body.secret) if body.secret is not None else Secret.generate())
    overlap = timedelta(seconds=body.overlap_s)
    async with deployment.database.begin() as connection:
        row = await find(connection, tables, endpoint_id, tenant, lock=True)
        signs = await _signs(connection, deployment, row.row_id, overlap)
        if signs is not None and signs.secret.text == new.secret.text:
            raise InvalidField("secret", "is the one that signs already; give another, or none and one is made")
        now = await moment_now(connection, deployment.database)
        if body.stage:
            await apply(
                connection,
                deployment.database,
                row,
                staged_secrets.columns(keyring, row.row_id, new, now, overlap),
            )
            shown = await view(connection, tables, row.row_id)
            return EndpointWithSecret(**dict(shown), secret=new.secret.text)
        await connection.run_sync(rotate_own, tables, keyring, row.row_id, new, now, overlap)
        await apply(connection, deployment.database, row, staged_secrets.NOTHING)
        return await view_with_secret(connection, deployment, row.row_id)


async def activate_secret(
    deployment: Deployment, endpoint_id: str, body: ActivateSecret, *, tenant: str | None
) -> Endpoint:
    """Signs with the staged secret, once its receiver has answered a test event signed with it alone with a 2xx.

    `body.force` does without the test. Raises `NotFound`, and `Conflict` where nothing is staged, what is needed of the
    endpoint cannot be read, the receiver did not accept the secret or must first prove that it wants anything, or
    another was staged or activated meanwhile; then nothing has changed.
    """
    database, keyring = deployment.database, deployment.keyring
    async with database.read() as connection:
        row = await find(connection, database.tables, endpoint_id, tenant)
        if not body.force:
            await check_proved(connection, deployment, row)
        tried = _staged(keyring, row)
        await _signs(connection, deployment, row.row_id, tried.overlap)
    if not body.force:
        await _test(deployment, row.row_id, tried.keys)
    async with database.begin() as connection:
        row = await find(connection, database.tables, endpoint_id, tenant, lock=True)
        now = await moment_now(connection, database)
        # What is sealed may have been rewrapped meanwhile: the secret itself says whether it is the one that was tried.
        staged = _staged(keyring, row)
        if staged.keys != tried.keys:
            raise Conflict("another secret was staged meanwhile; activate again to try that one")
        await connection.run_sync(rotate_own, database.tables, keyring, row.row_id, staged.keys, now, staged.overlap)
        await apply(connection, database, row, staged_secrets.NOTHING)
        return await view(connection, database.tables, row.row_id)


async def _signs(
    connection: AsyncConnection, deployment: Deployment, endpoint_row: int, overlap: timedelta
) -> SigningKeys | None:
    """What signs; null where nobody can read it and it is not to sign on. Raises `Conflict` where it is."""
    try:
        return await connection.run_sync(newest, deployment.database.tables, deployment.keyring, endpoint_row)
    except Unreadable as error:
        if overlap:
            # Perhaps its key is only missing here, so it goes only when asked to.
            raise Conflict(f"{error}, or rotate with `overlap_s` 0 to do without the old secret") from error
        return None


def _staged(keyring: KeyRing, row: Row[Any]) -> Staged:
    try:
        staged = staged_secrets.staged(keyring, row)
    except Unreadable as error:
        raise Conflict(f"{error}, or stage another") from error
    if staged is None:
        raise Conflict("no secret is staged for this endpoint; rotate it with `stage` first")
    return staged


async def _test(deployment: Deployment, endpoint_row: int, keys: SigningKeys) -> None:
    # Only here: the HTTP client takes a fifth of a second to load, and other commands do without.
    from dispatcher.engine import test_event

    try:
        result = await test_event.send_test(deployment, endpoint_row, keys)
    except Unreadable as error:
        raise Conflict(f"{error}, or activate with `force`") from error
    if not result.delivered:
        came = f"status {result.status}" if result.status is not None else f"error {result.error}"
        raise Conflict(
            f"the receiver did not accept a test event signed with the staged secret ({came}), so the old one goes on"
            " signing; let it verify with the new one and activate again, or activate with `force`"
        )
