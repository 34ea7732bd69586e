"""What tests of the loops look at inside a dispatcher."""

from datetime import timedelta

from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.store.hot import HotStore

#: No test waits for a poll.
SELDOM = timedelta(hours=1)


def store_of(dispatcher: Dispatcher) -> HotStore:
    assert dispatcher._running is not None
    return dispatcher._running._store
