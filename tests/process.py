"""What a command does to its whole process, and how a test that runs one in its own undoes it."""

import gc
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dispatcher import logs


@contextmanager
def process_as_before() -> Iterator[None]:
    """Undoes what a command does to its whole process: where logs go, and the garbage collector's sight.

    It begins with a process whose warnings nobody captures, whatever an earlier test left behind.
    """
    show_warning = warnings.showwarning
    _release_warnings(show_warning)
    sink = logs._SINK
    stream, level, render = sink.stream, sink.level, sink.render
    root = logging.getLogger()
    handlers, root_level = list(root.handlers), root.level
    thresholds = gc.get_threshold()
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        sink.stream, sink.level, sink.render = stream, level, render
        root.handlers[:] = handlers
        root.setLevel(root_level)
        _release_warnings(show_warning)
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def _release_warnings(show_warning: object) -> None:
    # logging remembers what it replaced, which may belong to a test that is over: the present one's is put back.
    logging.captureWarnings(False)
    warnings.showwarning = show_warning  # type: ignore[assignment]
