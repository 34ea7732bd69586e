"""What a measure is asked for, and the lines of the table that it answers with."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.receivers import Receiver
from benchmarks.scene import Databases

#: The databases, by dialect, as the table names them.
NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    bar: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    events: int
    seconds: float
    #: The long forms, where there are.
    long: bool = False


Measure = Callable[[Databases, Receiver, Plan], Awaitable[Sequence[Row]]]
