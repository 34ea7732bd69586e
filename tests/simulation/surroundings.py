"""What the engine takes from its interpreter: its chances become the seed's, its log the ledger's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

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
    sink = logs._SINK
    kept, level, stream = sink.render, sink.level, sink.stream

    def report(level: str, event: str, fields: logs.Fields) -> bytes:
        if event != "delivery.failed_inside":
            ledger.fail("the engine has no fault", f"{event} {fields.get('exception', '')}")
        return b""

    sink.render, sink.level, sink.stream = report, 40, BytesIO()
    try:
        yield
    finally:
        sink.render, sink.level, sink.stream = kept, level, stream
