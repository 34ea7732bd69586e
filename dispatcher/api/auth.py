"""Who calls: a Bearer key becomes a caller, and a caller's named tenant becomes the scope of the request."""

import hmac
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from dispatcher.errors import CallerError, InvalidField
from dispatcher.service import keys
from dispatcher.service.keys import Caller
from dispatcher.store.deployment import Deployment

#: How long a tenant's key is believed without asking the database, and so how long a revoked one may live on.
CACHE_S = 5.0
_CACHED_KEYS = 4096
_LONGEST_KEY = 512
_ADMIN = Caller(tenant=None, admin=True)


class Unauthenticated(CallerError):
    """No API key was sent, or none that is valid."""


class Forbidden(CallerError):
    """The API key is valid, and does not allow this."""


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: float


class KeyCache:
    """Turns keys into callers; remembers tenants' keys for `CACHE_S`, by digest only."""

    def __init__(self, deployment: Deployment, admin_key: str) -> None:
        self._deployment = deployment
        self._admin = sha256(admin_key.encode()).digest()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def caller(self, authorization: str | None) -> Caller:
        """The caller of an `Authorization` header. Raises `Unauthenticated`."""
        if authorization is None:
            raise Unauthenticated("no API key: send the header `Authorization: Bearer KEY`")
        scheme, _, presented = authorization.partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise Unauthenticated("the Authorization header is not `Bearer KEY`")
        # aiohttp decodes what is no UTF-8 as surrogates; no key of ours has such characters.
        digest = sha256(presented.encode(errors="surrogateescape")).digest()
        if hmac.compare_digest(digest, self._admin):
            return _ADMIN
        now = self._deployment.clock.monotonic()
        known = self._known.get(digest)
        if known is not None and now < known.until:
            return known.caller
        caller = None
        if len(presented) <= _LONGEST_KEY and presented.isascii():
            caller = await keys.authenticate(self._deployment, presented)
        if caller is None:
            self._known.pop(digest, None)
            raise Unauthenticated("this API key is not valid, or was revoked")
        self._known[digest] = _Known(caller, now + CACHE_S)
        self._known.move_to_end(digest)
        while len(self._known) > _CACHED_KEYS:
            self._known.popitem(last=False)
        return caller

    def forget(self) -> None:
        """Asks the database again about every key; a revocation then holds at once in this process."""
        self._known.clear()


def tenant_scope(caller: Caller, *named: str | None) -> str | None:
    """Whose things this request is about: the caller's own, or what the admin names; `None` = every tenant's.

    Raises `Forbidden` where a tenant's key names another tenant.
    """
    wanted = {name for name in named if name is not None}
    if len(wanted) > 1:
        raise InvalidField("tenant", "is given several times, and differs; one request is about one tenant")
    tenant = wanted.pop() if wanted else None
    if caller.admin:
        return tenant
    if tenant is not None and tenant != caller.tenant:
        raise Forbidden(f"this API key belongs to another tenant than {tenant!r}; leave `tenant` out")
    return caller.tenant
