"""The whole API in one table."""

from dispatcher.api import (
    dead_letters,
    deliveries,
    endpoint_secrets,
    endpoint_status,
    endpoint_trials,
    endpoints,
    events,
    jobs,
    keys,
    operations,
    tenants,
)
from dispatcher.api.route import Route

ROUTES: tuple[Route, ...] = (
    *endpoints.ROUTES,
    *endpoint_status.ROUTES,
    *endpoint_secrets.ROUTES,
    *endpoint_trials.ROUTES,
    *endpoints.ALIASES,
    *events.ROUTES,
    *deliveries.ROUTES,
    *dead_letters.ROUTES,
    *jobs.ROUTES,
    *keys.ROUTES,
    *tenants.ROUTES,
    *operations.ROUTES,
)


def served(method: str) -> tuple[str, ...]:
    """The methods under which a route of this one is served: where there is a GET, there is a HEAD."""
    return (method, "HEAD") if method == "GET" else (method,)


#: The methods of each path without parameters.
METHODS = {
    path: {method for route in ROUTES if route.path == path for method in served(route.method)}
    for path in {route.path for route in ROUTES if not route.parameters}
}
