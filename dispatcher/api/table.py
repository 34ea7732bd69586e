"""The whole API in one table."""

from dispatcher.api import dead_letters, deliveries, endpoints, events, keys, operations
from dispatcher.api.route import Route

ROUTES: tuple[Route, ...] = (
    *endpoints.ROUTES,
    *events.ROUTES,
    *deliveries.ROUTES,
    *dead_letters.ROUTES,
    *keys.ROUTES,
    *operations.ROUTES,
)
