"""Whether an endpoint is sent nothing until it has answered a challenge: as its tenant's own rule says, else as the
deployment's.
"""

from sqlalchemy import Connection, select

from dispatcher.store.tables import Tables


def demands_proof(connection: Connection, tables: Tables, tenant: str, by_deployment: bool) -> bool:
    """What holds for the tenant now, where the deployment's setting is `by_deployment`."""
    quotas = tables.tenant_quotas.c
    own: bool | None = connection.scalar(select(quotas.verify_endpoints).where(quotas.tenant == tenant))
    return by_deployment if own is None else own
