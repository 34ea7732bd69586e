"""Who calls: a Bearer key or a job's link becomes a caller, and its named tenant the scope of the request."""

import hmac
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from dispatcher.clock import rfc3339
from dispatcher.errors import CallerError, InvalidField, NotFound
from dispatcher.rules import job_links
from dispatcher.service import jobs, keys
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

    async def caller(self, authorization: str | None, *, token: str | None = None, job_id: str | None = None) -> Caller:
        """The caller of an `Authorization` header; where a link of `job_id` opens what is asked for, also that of a
        link, in the header or as `token`. Raises `Unauthenticated`, and `NotFound` under another job's link.
        """
        if authorization is None and token is not None:
            return self._by_link(token, job_id)
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
        if presented.startswith(job_links.PREFIX):
            return self._by_link(presented, job_id)
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

    def _by_link(self, token: str, job_id: str | None) -> Caller:
        link = jobs.read_link(self._deployment, token)
        if link is None:
            raise Unauthenticated("this is no link to a job that was made here, or not all of it was sent")
        if job_id is None:
            raise Unauthenticated("this is a link to a job: it opens GET /v1/jobs/{job_id}/events, nothing else")
        if link.expires_at <= self._deployment.clock.now():
            raise Unauthenticated(f"this link expired at {rfc3339(link.expires_at)}; ask whoever gave it for a new one")
        if link.job_id != job_id:
            raise NotFound("this link leads to another job than the one that the path names")
        return Caller(tenant=link.tenant, admin=False, job_id=link.job_id)

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
