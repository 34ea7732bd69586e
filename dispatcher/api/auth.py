"""Who calls: a Bearer key or a job's link becomes a caller, its scopes what it may do, its tenant what it sees."""

import hmac
from collections.abc import Callable

from dispatcher.api.known_keys import KnownKeys
from dispatcher.api.wrong_keys import WrongKeys
from dispatcher.clock import rfc3339
from dispatcher.errors import CallerError, InvalidField, NotFound, TooManyWrongKeys
from dispatcher.rules import job_links
from dispatcher.service import jobs, keys
from dispatcher.service.keys import Caller
from dispatcher.states import Scope
from dispatcher.store.deployment import Deployment

_LONGEST_KEY = 512


class Unauthenticated(CallerError):
    """No API key was sent, or none that is valid."""


class WrongKey(Unauthenticated):
    """A key was sent that is none of ours, or not any more."""


class Forbidden(CallerError):
    """The API key is valid, and does not allow this."""

    def __init__(self, detail: str, scope: Scope | None = None) -> None:
        super().__init__(detail)
        #: The scope that it lacks, if that is what it lacks.
        self.scope = scope


class Authenticator:
    """Turns what a request presents into its caller, and slows down who tries one key after another.

    A key that was made here is 256 random bits, which nobody guesses: it is always looked up, so that strangers who
    present wrong ones, from the same address too, keep nobody out. Past their budget they wait for each other, and are
    told 429. An admin key that is short enough to be guessed is not even looked at then.
    """

    def __init__(self, deployment: Deployment, admin_key: str) -> None:
        self._deployment = deployment
        self._admin = keys.digest_of(admin_key)
        self._admin_may_be_guessed = len(admin_key) < keys.SHORTEST_ADMIN_KEY
        self._known = KnownKeys(deployment)
        self._wrong = WrongKeys(deployment.clock)

    async def caller(
        self,
        authorization: str | None,
        address: Callable[[], str],
        *,
        token: str | None = None,
        job_id: str | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> Caller:
        """The caller of an `Authorization` header; where a link of `job_id` opens what is asked for, also that of a
        link, in the header or as `token`. `address` tells from where it comes, `gone` whether nobody waits any more.

        Raises `Unauthenticated`, `TooManyWrongKeys`, and `NotFound` under another job's link.
        """
        if authorization is None and token is not None:
            return self._by_link(token, job_id, address)
        if authorization is None:
            raise Unauthenticated("no API key: send the header `Authorization: Bearer KEY`")
        scheme, _, presented = authorization.partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise Unauthenticated("the Authorization header is not `Bearer KEY`")
        digest = keys.digest_of(presented)
        if hmac.compare_digest(digest, self._admin) and not (
            self._admin_may_be_guessed and self._wrong.wait_s(address())
        ):
            return keys.ADMIN
        if presented.startswith(job_links.PREFIX):
            return self._by_link(presented, job_id, address)
        if presented.startswith(keys.PREFIX) and len(presented) <= _LONGEST_KEY:
            caller = self._known.at_hand(digest)
            if caller is None:
                caller = await self._known.ask(digest, slowed=lambda: self._wrong.wait_s(address()) > 0, gone=gone)
            if caller is not None:
                return caller
        raise self._wrong_key("this API key is not valid, or it expired or was revoked", address)

    async def close(self) -> None:
        """Returns when what is being read and written is done."""
        await self._known.close()

    def _by_link(self, token: str, job_id: str | None, address: Callable[[], str]) -> Caller:
        link = jobs.read_link(self._deployment, token)
        if link is None:
            raise self._wrong_key("this is no link to a job that was made here, or not all of it was sent", address)
        if job_id is None:
            raise Unauthenticated("this is a link to a job: it opens GET /v1/jobs/{job_id}/events, nothing else")
        if link.expires_at <= self._deployment.clock.now():
            raise Unauthenticated(f"this link expired at {rfc3339(link.expires_at)}; ask whoever gave it for a new one")
        if link.job_id != job_id:
            raise NotFound("this link leads to another job than the one that the path names")
        return Caller(tenant=link.tenant, scopes=frozenset({Scope.READ}), job_id=link.job_id)

    def _wrong_key(self, detail: str, address: Callable[[], str]) -> CallerError:
        early_s = self._wrong.count(address())
        if early_s:
            return TooManyWrongKeys(
                "too many wrong keys were sent from there; try again later, with a right one", early_s
            )
        return WrongKey(detail)


def check_scope(caller: Caller, scope: Scope, *, of_deployment: bool) -> None:
    """Raises `Forbidden` where the caller may not do what wants this scope, or does not see the whole deployment."""
    if scope not in caller.scopes:
        has = ", ".join(f"`{one}`" for one in Scope if one in caller.scopes) or "none"
        detail = f"this API key lacks the scope `{scope}`; it has {has}"
        if scope is Scope.ADMIN:
            detail += "; the admin key has it, and keys that were made with it, of no tenant"
        raise Forbidden(detail, scope)
    if of_deployment and caller.tenant is not None:
        raise Forbidden("this is about all tenants, and the API key belongs to one")


def tenant_scope(caller: Caller, *named: str | None) -> str | None:
    """Whose things this request is about: the caller's own, or what one who sees all names; `None` = every tenant's.

    Raises `Forbidden` where a tenant's key names another tenant.
    """
    wanted = {name for name in named if name is not None}
    if len(wanted) > 1:
        raise InvalidField("tenant", "is given several times, and differs; one request is about one tenant")
    tenant = wanted.pop() if wanted else None
    if caller.tenant is None:
        return tenant
    if tenant is not None and tenant != caller.tenant:
        raise Forbidden(f"this API key belongs to another tenant than {tenant!r}; leave `tenant` out")
    return caller.tenant
