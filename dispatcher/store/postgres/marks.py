"""Low marks: where in an index what lives may begin, so that nobody walks over what is dead before it.

What has left a partial index stays in it until vacuum takes it away, and while anybody's transaction is open vacuum may
not. Looking in full then costs a third of a microsecond for each entry since that began, at each claim. So looks that
have become dear go from marks, and in full only now and then, since a row may come back below its mark.
"""

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Generic, TypeVar

#: An endpoint, and which of its deliveries: the fresh ones, or those that go again.
Place = tuple[int, bool]
#: Deliveries that can be claimed (again), by where they are.
CameBack = Sequence[tuple[Place, int]]

K = TypeVar("K", Place, str)

#: A look in full is dear from here on, in seconds. Below it each look is in full.
DEAR_S = 0.005
#: Nor is it worth anything to begin behind fewer entries than this process has seen off itself.
FEW = 10_000
#: After a dear look in full the next follows when so many times what it took has passed: a twentieth of the time at the
#: most goes into them, and what came back below its mark, untold, waits no longer than that.
REST = 20
#: Marks kept: those of the keys that were used last.
MOST = 1000


class Looks:
    """Decides whether the next look is one in full, by what the last one took."""

    def __init__(self) -> None:
        self._left = 0
        self._again_at = 0.0

    def in_full(self) -> bool:
        """Whether the next look is to be one in full."""
        # The server's time is real, whatever the clock says.
        return self._left < FEW or monotonic() >= self._again_at

    def took(self, seconds: float) -> None:
        """A look in full took so long on the server."""
        self._again_at = monotonic() + REST * seconds if seconds >= DEAR_S else 0.0

    def left(self, entries: int) -> None:
        """So many more entries have left the index by this process."""
        self._left += entries


class Rest:
    """Keeps looks apart that are always in full, once they have become dear."""

    def __init__(self) -> None:
        self._dear = False
        self._until = 0.0

    @property
    def now(self) -> bool:
        """Whether no look should be taken now: the ordinary statements can begin behind what is dead there."""
        return monotonic() < self._until

    def took(self, seconds: float) -> None:
        """A look took so long on the server."""
        dear, self._dear = self._dear, seconds >= DEAR_S
        if dear and self._dear:
            # Not once, by chance.
            self._until = monotonic() + REST * seconds


class Marks(Generic[K]):
    """By key (place or tenant) the row at which its live entries may begin."""

    def __init__(self) -> None:
        self._rows: dict[K, int] = {}
        self._told: dict[K, int] = {}

    def all(self) -> list[tuple[K, int]]:
        """The marks, in no order."""
        return list(self._rows.items())

    def looking(self) -> None:
        """A look begins: it may not see what comes back from now on."""
        self._told.clear()

    def begin(self, firsts: Iterable[tuple[K, int]]) -> None:
        """The look that began saw nothing alive of these keys before these rows."""
        for key, row in firsts:
            # The last one used is the last to be forgotten.
            self._rows.pop(key, None)
            self._rows[key] = min(row, self._told.get(key, row))
        while len(self._rows) > MOST:
            del self._rows[next(iter(self._rows))]

    def came_back(self, rows: Iterable[tuple[K, int]]) -> None:
        """These rows live again, and may be below their marks."""
        for key, row in rows:
            if row < self._rows.get(key, row):
                self._rows[key] = row
            if row < self._told.get(key, row + 1):
                self._told[key] = row
