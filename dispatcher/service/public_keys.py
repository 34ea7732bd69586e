"""The public keys of `v1a` signatures, which anybody may have.

One pair per endpoint (or per tenant's default secret) and none for the deployment: what is signed names no receiver,
so with a common key one tenant's genuine webhook, sent on, would pass at every other tenant's receiver.
"""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import NotFound
from dispatcher.rules import key_pairs
from dispatcher.service.endpoint_views import find
from dispatcher.service.models import Jwk, JwkSet, Page, PublicKey
from dispatcher.store import staged_secrets
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_rows import is_asymmetric
from dispatcher.store.keyring import Unreadable
from dispatcher.store.signing_secrets import NO_SECRET, signing


async def of_endpoint(deployment: Deployment, endpoint_id: str, *, tenant: str | None) -> Page[PublicKey]:
    """The keys that verify the endpoint's `v1a` signatures: a staged one, then those that sign, the newest first.

    None where it did not choose `v1a`. Raises `NotFound`.
    """
    async with deployment.database.read() as connection:
        return Page[PublicKey](data=await _keys(connection, deployment, endpoint_id, tenant), next_cursor=None)


async def jwk_set(deployment: Deployment, endpoint_id: str | None) -> JwkSet:
    """The same as a JWK set, for whoever asks: none for an endpoint that there is not, so that it tells nobody.

    And none without one, since the deployment has none, nor where they cannot be read: nothing is signed with those,
    and who has no key must not fill the log with what is wrong.
    """
    if endpoint_id is None:
        return JwkSet(keys=[])
    async with deployment.database.read() as connection:
        try:
            keys = await _keys(connection, deployment, endpoint_id, None)
        except (NotFound, Unreadable):
            keys = []
    return JwkSet(keys=[Jwk(x=key_pairs.PublicKey.parse(key.public_key).jwk_x, kid=key.id) for key in keys])


async def _keys(
    connection: AsyncConnection, deployment: Deployment, endpoint_id: str, tenant: str | None
) -> list[PublicKey]:
    tables, keyring = deployment.database.tables, deployment.keyring
    row = await find(connection, tables, endpoint_id, tenant)
    if not is_asymmetric(row.signatures):
        return []
    staged = staged_secrets.staged(keyring, row)
    now = deployment.database.now()
    signs = (await connection.run_sync(signing, tables, {row.row_id: row.tenant}, now)).get(row.row_id)
    if signs is None:
        raise Unreadable(NO_SECRET)
    waits = [] if staged is None else [_view(staged.keys.public_key, staged=True, retires_at=None)]
    return waits + [
        _view(keys.public_key, staged=False, retires_at=retires_at) for keys, retires_at in signs.read(keyring)
    ]


def _view(key: key_pairs.PublicKey, *, staged: bool, retires_at: datetime | None) -> PublicKey:
    return PublicKey(id=key.thumbprint, public_key=key.text, staged=staged, retires_at=retires_at)
