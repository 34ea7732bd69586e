"""What a measure is asked for, and the lines of the table that it answers with."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

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
class Turns:
    """Events per second of the same done in turns: as usual, and under a burden; the n-th of each belong together."""

    usual: list[float]
    burdened: list[float]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(burdened / usual for burdened, usual in zip(self.burdened, self.usual, strict=True))

    @property
    def measured(self) -> str:
        """The ratio, with the medians."""
        return f"{self.ratio:.2f} ({median(self.burdened):,.0f} to {median(self.usual):,.0f} events/s)"

    def row(self, what: str) -> Row:
        """The table's line: under the burden it is to be nine tenths of the usual at least."""
        return Row(what, self.measured, "≥ 0.90", self.ratio >= 0.9)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    events: int
    seconds: float
    #: The long forms, where there are.
    long: bool = False


Measure = Callable[[Databases, Receiver, Plan], Awaitable[Sequence[Row]]]
