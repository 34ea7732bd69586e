"""Routes about the service itself: health, figures, its addresses, and its own documentation."""

from typing import Any

from prometheus_client.exposition import choose_encoder

from dispatcher.api.queries import JwksQuery, NoQuery, StatsQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.engine.vitals import Condition
from dispatcher.service import health, models, public_keys, stats
from dispatcher.service.models import Egress, JwkSet, Stats
from dispatcher.states import Scope

_TAG = "Operations"


class Health(models.Answer):
    """Whether the process lives: `ok`, or what is wrong."""

    status: str


class Readiness(models.Answer):
    """Whether requests can be served, and each check's finding."""

    ready: bool
    checks: dict[str, str]


async def healthz(call: Call[object, NoQuery]) -> Reply:
    """Says whether the process lives, and asks nobody for it."""
    condition = call.door.condition
    alive, status = health.liveness(condition() if condition else Condition())
    return Reply(200 if alive else 503, Health(status=status))


async def readyz(call: Call[object, NoQuery]) -> Reply:
    """Says whether the database answers, its schema fits, and the dispatcher works."""
    condition = call.door.condition
    ready, checks = await health.readiness(call.deployment, condition() if condition else None)
    return Reply(200 if ready else 503, Readiness(ready=ready, checks=checks))


async def metrics(call: Call[object, NoQuery]) -> Reply:
    """The metrics, as Prometheus reads them."""
    encode, content_type = choose_encoder(call.accept)
    return Reply(200, encode(call.door.registry), {"Content-Type": content_type})


async def show_stats(call: Call[object, StatsQuery]) -> Reply:
    """Counts and ages."""
    return Reply(200, await stats.stats(call.deployment, tenant=call.tenant, per_endpoint=call.query.per_endpoint))


async def egress(call: Call[object, TenantQuery]) -> Reply:
    """The addresses that deliveries come from."""
    return Reply(200, Egress(addresses=list(call.deployment.settings.egress_addresses)))


async def openapi(call: Call[object, NoQuery]) -> Reply:
    """This API as an OpenAPI document."""
    return Reply(200, call.door.openapi)


async def docs(call: Call[object, NoQuery]) -> Reply:
    """This API as a page to read."""
    return Reply(200, call.door.docs, {"Content-Type": "text/html; charset=utf-8"})


async def jwks(call: Call[object, JwksQuery]) -> Reply:
    """The public keys of one endpoint, for whoever asks."""
    keys = await public_keys.jwk_set(call.deployment, call.query.endpoint_id)
    return Reply(200, keys, {"Content-Type": "application/jwk-set+json"})


def _page(path: str, operation: str, summary: str, handler: Any, answers: dict[int, Answer]) -> Route:
    return Route(
        method="GET",
        path=path,
        tag=_TAG,
        operation=operation,
        summary=summary,
        handler=handler,
        query=NoQuery,
        answers=answers,
        scope=None,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/stats",
        tag=_TAG,
        operation="getStats",
        summary="Counts and oldest age per state",
        handler=show_stats,
        query=StatsQuery,
        answers={200: Answer("The figures.", Stats)},
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/egress",
        tag=_TAG,
        operation="getEgress",
        summary="Addresses that deliveries come from",
        description="For receivers' allow lists; set with `DISPATCHER_EGRESS_ADDRESSES`.",
        handler=egress,
        query=TenantQuery,
        answers={200: Answer("The addresses.", Egress)},
    ),
    Route(
        method="GET",
        path="/metrics",
        tag=_TAG,
        operation="getMetrics",
        summary="Metrics for Prometheus",
        handler=metrics,
        query=NoQuery,
        answers={200: Answer("The metrics.", media_type="text/plain")},
        scope=Scope.READ,
        of_deployment=True,
    ),
    Route(
        method="GET",
        path="/.well-known/jwks.json",
        tag=_TAG,
        operation="getJwks",
        summary="Public keys of an endpoint's signatures, as a JWK set",
        description="For receivers, without a key. Each endpoint has keys of its own: what is signed names no receiver,"
        " so a key of the whole deployment would let one tenant's webhook pass at another's receiver. No keys without"
        " `endpoint_id`, for an endpoint that there is not, and where its `signatures` have no `v1a`.",
        handler=jwks,
        query=JwksQuery,
        answers={200: Answer("The keys.", JwkSet, media_type="application/jwk-set+json")},
        scope=None,
        problems=(503,),
    ),
    _page(
        "/healthz",
        "getHealth",
        "Whether the process lives",
        healthz,
        {200: Answer("It lives.", Health), 503: Answer("A part of it hangs or has ended: restart it.", Health)},
    ),
    _page(
        "/readyz",
        "getReadiness",
        "Whether requests can be served",
        readyz,
        {200: Answer("They can.", Readiness), 503: Answer("They cannot; `checks` says why.", Readiness)},
    ),
    _page("/openapi.json", "getOpenApi", "This API as OpenAPI 3.1", openapi, {200: Answer("The document.")}),
    _page("/docs", "getDocs", "This API as a page to read", docs, {200: Answer("The page.", media_type="text/html")}),
)
