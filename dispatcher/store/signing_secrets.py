"""Which secrets sign for an endpoint: its own, or else its tenant's default, which a rotation then changes for all."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, delete, exists, func, insert, or_, select, update
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.errors import Conflict
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.states import EndpointStatus
from dispatcher.store.columns import among
from dispatcher.store.keyring import KeyRing, Unreadable
from dispatcher.store.tables import Tables
from dispatcher.store.tables.declaring import insert_if_absent

#: What a secret, with its key pair, is sealed for: an endpoint by its row, or a tenant by its name.
OWN = "secret"
TENANTS = "tenant secret"

#: What is wrong with an endpoint of which there is none.
NO_SECRET = "an endpoint has no secret: rotate it with `overlap_s` 0 to give it one"  # noqa: S105 - what is said

#: How many sign at once, of those that overlap after several rotations: a header with hundreds no receiver takes.
MOST_SIGNING = 8


def store_own(
    connection: Connection,
    tables: Tables,
    keyring: KeyRing,
    endpoint_row: int,
    keys: SigningKeys,
    now: datetime | ColumnElement[Any],
) -> None:
    """Gives an endpoint a secret of its own, beside those that it has."""
    connection.execute(
        insert(tables.endpoint_secrets).values(
            endpoint_row=endpoint_row, sealed=keyring.seal(keys.text, OWN, endpoint_row), created_at=now
        )
    )


def has_default(connection: Connection, tables: Tables, tenant: str) -> bool:
    """Whether the tenant has a default secret."""
    kept = tables.tenant_secrets.c
    return bool(connection.scalar(select(exists().where(kept.tenant == tenant, kept.retires_at.is_(None)))))


def newest(connection: Connection, tables: Tables, keyring: KeyRing, endpoint_row: int) -> SigningKeys:
    """What an endpoint's receiver is to verify with: its own, or its tenant's. Raises `Unreadable`."""
    own, of_tenant, e = tables.endpoint_secrets.c, tables.tenant_secrets.c, tables.endpoints.c
    sealed = connection.scalar(
        select(own.sealed).where(own.endpoint_row == endpoint_row).order_by(own.row_id.desc()).limit(1)
    )
    if sealed is not None:
        return _read(keyring, sealed, OWN, endpoint_row)
    found = connection.execute(
        select(of_tenant.sealed, of_tenant.tenant)
        .join(tables.endpoints, e.tenant == of_tenant.tenant)
        .where(e.row_id == endpoint_row)
        .order_by(of_tenant.row_id.desc())
        .limit(1)
    ).one_or_none()
    if found is None:
        raise Unreadable(NO_SECRET)
    return _read(keyring, found.sealed, TENANTS, found.tenant)


@dataclass(frozen=True, slots=True)
class Signing:
    """What signs now for one endpoint, sealed: the newest first, each with when it stops."""

    owner: object
    purpose: str
    sealed: Sequence[tuple[bytes, datetime | None]]

    def read(self, keyring: KeyRing) -> list[tuple[SigningKeys, datetime | None]]:
        """The same, opened. Raises `Unreadable`."""
        return [(_read(keyring, sealed, self.purpose, self.owner), retires_at) for sealed, retires_at in self.sealed]


def signing(
    connection: Connection, tables: Tables, tenants: Mapping[int, str], now: ColumnElement[Any]
) -> dict[int, Signing]:
    """What signs now for each of these endpoints, of which the tenant is given, up to `MOST_SIGNING`; of one that has
    no secret nothing is said.
    """
    own, of_tenant = tables.endpoint_secrets.c, tables.tenant_secrets.c
    found = {
        row: Signing(row, OWN, sealed) for row, sealed in _live(connection, own, own.endpoint_row, tenants, now).items()
    }
    others = {row: tenant for row, tenant in tenants.items() if row not in found}
    if others:
        defaults = _live(connection, of_tenant, of_tenant.tenant, set(others.values()), now)
        found |= {
            row: Signing(tenant, TENANTS, defaults[tenant]) for row, tenant in others.items() if tenant in defaults
        }
    return found


def _live(
    connection: Connection, kept: Any, owner: Column[Any], owners: Collection[Any], now: ColumnElement[Any]
) -> dict[Any, list[tuple[bytes, datetime | None]]]:
    newest_first = (kept.retires_at.is_(None).desc(), kept.row_id.desc())
    place = func.row_number().over(partition_by=owner, order_by=newest_first).label("place")
    live = (
        select(owner.label("owner"), kept.sealed, kept.retires_at, place)
        .where(among(connection.dialect, owner, owners), or_(kept.retires_at.is_(None), kept.retires_at > now))
        .subquery()
    )
    rows = connection.execute(
        select(live.c.owner, live.c.sealed, live.c.retires_at)
        .where(live.c.place <= MOST_SIGNING)
        .order_by(live.c.owner, live.c.place)
    )
    found: dict[Any, list[tuple[bytes, datetime | None]]] = {}
    for whose, sealed, retires_at in rows:
        found.setdefault(whose, []).append((sealed, retires_at))
    return found


def rotate_own(
    connection: Connection,
    tables: Tables,
    keyring: KeyRing,
    endpoint_row: int,
    new: SigningKeys,
    now: datetime,
    overlap: timedelta,
) -> None:
    """The endpoint signs with `new`, and for the `overlap` with what it signed with before; its own from now on.

    Its version is the caller's to raise.
    """
    kept = tables.endpoint_secrets
    of_endpoint = kept.c.endpoint_row == endpoint_row
    if not overlap:
        connection.execute(delete(kept).where(of_endpoint))
    else:
        if connection.scalar(select(kept.c.row_id).where(of_endpoint).limit(1)) is None:
            # Its tenant's until now: what of it signs goes on for the overlap, whatever the tenant does meanwhile.
            former = newest(connection, tables, keyring, endpoint_row)
            store_own(connection, tables, keyring, endpoint_row, former, now)
        connection.execute(
            update(kept).where(of_endpoint, kept.c.retires_at.is_(None)).values(retires_at=now + overlap)
        )
    store_own(connection, tables, keyring, endpoint_row, new, now)


def rotate_default(
    connection: Connection,
    tables: Tables,
    keyring: KeyRing,
    tenant: str,
    new: Secret,
    now: datetime,
    overlap: timedelta,
) -> bool:
    """The tenant's endpoints without a secret of their own sign with `new`, and for the `overlap` with the former.

    Raises their version, so that every attempt that is begun after the commit follows. False, and nothing is changed,
    when `new` is the tenant's default already. Raises `Conflict` where somebody else set one meanwhile, and where the
    former cannot be read and so cannot overlap.
    """
    kept, e = tables.tenant_secrets, tables.endpoints
    live = (kept.c.tenant == tenant, kept.c.retires_at.is_(None))
    current = connection.scalar(select(kept.c.sealed).where(*live).with_for_update())
    if current is not None and _is_default_already(keyring, tenant, current, new, overlap):
        return False
    if overlap:
        connection.execute(update(kept).where(*live).values(retires_at=now + overlap))
    else:
        connection.execute(delete(kept).where(kept.c.tenant == tenant))
    made = connection.scalar(
        insert_if_absent(connection, kept)
        .values(tenant=tenant, sealed=keyring.seal(SigningKeys.beside(new).text, TENANTS, tenant), created_at=now)
        .on_conflict_do_nothing()
        .returning(kept.c.row_id)
    )
    if made is None:
        raise Conflict("the tenant's secret was set by another request just now; ask again to set this one")
    if current is not None:
        own = exists().where(tables.endpoint_secrets.c.endpoint_row == e.c.row_id)
        connection.execute(
            update(e)
            .where(e.c.tenant == tenant, e.c.status != EndpointStatus.DISABLED, e.c.deleted_at.is_(None), ~own)
            .values(version=e.c.version + 1)
        )
    return True


def _is_default_already(keyring: KeyRing, tenant: str, current: bytes, new: Secret, overlap: timedelta) -> bool:
    try:
        return _read(keyring, current, TENANTS, tenant).secret.text == new.text
    except Unreadable as error:
        if overlap:
            # Perhaps its key is only missing here, so it goes only when asked to.
            raise Conflict(f"{error}, or set another with `overlap_s` 0 to do without the old secret") from error
        return False


def _read(keyring: KeyRing, sealed: bytes, purpose: str, owner: object) -> SigningKeys:
    return SigningKeys.read(keyring.open(sealed, purpose, owner))
