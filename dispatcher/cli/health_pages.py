"""What `work` shows of itself on a port: that it lives, whether it can work, and its metrics; without a key."""

import json
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dispatcher.engine.vitals import Condition
from dispatcher.service import health
from dispatcher.store.deployment import Deployment


def health_app(
    deployment: Deployment, registry: CollectorRegistry, condition: Callable[[], Condition] | None
) -> web.Application:
    """`/healthz`, `/readyz` and `/metrics`; `condition` asks the dispatcher in this process, if there is one."""

    async def healthz(request: web.Request) -> web.Response:
        alive, status = health.liveness(condition() if condition else Condition())
        return _json(200 if alive else 503, {"status": status})

    async def readyz(request: web.Request) -> web.Response:
        ready, checks = await health.readiness(deployment, condition() if condition else None)
        return _json(200 if ready else 503, {"ready": ready, "checks": checks})

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _json(status: int, content: object) -> web.Response:
    return web.Response(status=status, text=json.dumps(content), content_type="application/json")
