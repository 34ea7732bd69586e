"""What the engine takes from its interpreter: its chances become the seed's, its log the ledger's."""

import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NoReturn

import structlog

from dispatcher import logs
from tests.simulation.ledger import Ledger


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The engine's own chances are the seed's too."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def quiet(ledger: Ledger) -> Iterator[None]:
    """No log; but what the engine calls its own fault is one."""
    sink, processors = logs._SINK, logs._PROCESSORS
    kept, level, stream = list(processors), sink.level, sink.stream

    def report(_: Any, method: str, fields: Any) -> NoReturn:
        error = fields.get("exc_info")
        if fields["event"] != "delivery.failed_inside":
            ledger.fail("the engine has no fault", f"{fields['event']} {traceback.format_exc() if error else ''}")
        raise structlog.DropEvent

    sink.level, sink.stream = 40, BytesIO()
    processors[:] = [report]
    try:
        yield
    finally:
        processors[:] = kept
        sink.level, sink.stream = level, stream
