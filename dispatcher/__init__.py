"""Outbound webhooks from a transactional outbox: publish in your own transaction, and the dispatcher delivers.

The way of an event, module by module: `outbox.publish` → `store.*.fan_out` → `store.*.claim` → `engine.sign` →
`transport.client` → `rules.verdict` → `engine.recorder` → `store.transitions` (redelivery).
"""

from typing import TYPE_CHECKING, Any

from dispatcher.errors import (
    AlreadyRunning,
    ConfigurationError,
    Conflict,
    DispatcherError,
    IdempotencyConflict,
    InvalidField,
    NotFound,
    SchemaError,
    StoreUnavailable,
    TooManyReaders,
    VerificationError,
)
from dispatcher.version import VERSION

if TYPE_CHECKING:
    from dispatcher.engine.dispatcher import Dispatcher
    from dispatcher.outbox.callbacks import Callback, register_callback
    from dispatcher.outbox.job_links import JobLink, job_link
    from dispatcher.outbox.publish import publish
    from dispatcher.rules.verifying import verify
    from dispatcher.store.sqlite_engine import prepare_sqlite

__version__ = VERSION

#: Where the public names live; a receiver that only verifies loads no database.
_HOMES = {
    "Callback": "dispatcher.outbox.callbacks",
    "Dispatcher": "dispatcher.engine.dispatcher",
    "JobLink": "dispatcher.outbox.job_links",
    "job_link": "dispatcher.outbox.job_links",
    "prepare_sqlite": "dispatcher.store.sqlite_engine",
    "publish": "dispatcher.outbox.publish",
    "register_callback": "dispatcher.outbox.callbacks",
    "verify": "dispatcher.rules.verifying",
}

__all__ = [
    "AlreadyRunning",
    "Callback",
    "ConfigurationError",
    "Conflict",
    "Dispatcher",
    "DispatcherError",
    "IdempotencyConflict",
    "InvalidField",
    "JobLink",
    "NotFound",
    "SchemaError",
    "StoreUnavailable",
    "TooManyReaders",
    "VerificationError",
    "__version__",
    "job_link",
    "prepare_sqlite",
    "publish",
    "register_callback",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
