"""Tenants' default secrets: set and rotated for all of a tenant's endpoints that have none of their own."""

from datetime import timedelta

from dispatcher.rules.secrets import Secret
from dispatcher.service.models import TenantSecret, TenantSecretSet
from dispatcher.service.moments import moment_now
from dispatcher.service.scope import tenant_name
from dispatcher.store.deployment import Deployment
from dispatcher.store.signing_secrets import rotate_default


async def set_secret(deployment: Deployment, tenant: str, body: TenantSecretSet) -> TenantSecret:
    """Sets the tenant's default secret; the caller's right to the tenant was checked.

    Endpoints and callbacks that are made without a secret from now on use it. Those that use the former one sign with
    both for `body.overlap_s` seconds. The same secret again changes nothing. Raises `InvalidField`, `Conflict`.
    """
    secret = Secret.parse(body.secret) if body.secret is not None else Secret.generate()
    async with deployment.database.begin() as connection:
        await connection.run_sync(
            rotate_default,
            deployment.database.tables,
            deployment.keyring,
            tenant_name(tenant),
            secret,
            await moment_now(connection, deployment.database),
            timedelta(seconds=body.overlap_s),
        )
    return TenantSecret(tenant=tenant, secret=secret.text)
