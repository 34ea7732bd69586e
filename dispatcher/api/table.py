"""The whole API in one table."""

from dispatcher.api import dead_letters, deliveries, endpoints, events, jobs, keys, operations, tenants
from dispatcher.api.route import Route

ROUTES: tuple[Route, ...] = (
    *endpoints.ROUTES,
    *events.ROUTES,
    *deliveries.ROUTES,
    *dead_letters.ROUTES,
    *jobs.ROUTES,
    *keys.ROUTES,
    *tenants.ROUTES,
    *operations.ROUTES,
)
