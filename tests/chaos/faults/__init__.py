"""What can go wrong, one file per family. A fault knows how to be inflicted once; `siege` does so under load."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from types import MappingProxyType
from typing import Protocol

from tests.chaos.scene import Scene

POSTGRESQL, SQLITE = frozenset({"postgresql"}), frozenset({"sqlite"})
BOTH = POSTGRESQL | SQLITE


class Fault(Protocol):
    """One fault. Inherit from it: whatever is not said otherwise is as here.

    Each family exports its faults as `FAULTS`, and `tests/chaos/roster.py` lists the families.
    """

    #: Lower case with hyphens: what the table and `--faults` call it.
    name: str
    #: Where it can happen.
    dialects: frozenset[str] = BOTH
    #: How many dispatchers work at the same time.
    workers: int = 1
    #: The module that runs the command line, where a fault needs another one than `dispatcher`.
    entry: str = "dispatcher"
    #: Whether it wants a database without tables.
    empty: bool = False
    #: What each dispatcher's environment holds besides its settings.
    environment: Mapping[str, str] = MappingProxyType({})
    #: Of the endpoints, where it must be short; null: the default.
    timeout_s: float | None = None
    #: Names of the log lines of level error that it explains; any other breaks a promise.
    excuses: frozenset[str] = frozenset()
    #: Whether it hits every database of the server, and not one alone.
    whole_server: bool = False
    #: Whether it wants a file system of its own, and a small one (`tests/chaos/small_disk.py`).
    small_disk: bool = False
    #: Whether transactions of the producers may fail too; what became of them is then looked up.
    disturbs_producers: bool = False

    @asynccontextmanager
    async def arranged(self, url: str) -> AsyncIterator[dict[str, str]]:
        """What must stand before the first dispatcher starts, such as a proxy; gone afterwards.

        Yields the settings that dispatchers get instead of the scene's, by name (`database_url`, …). Producers and
        the audit go straight to `url`.
        """
        yield {}

    async def strike(self, at: Scene, random: Random) -> None:
        """Inflicts it once, and returns when its cause is gone; what it disturbed may still recover.

        It tells the scene what it interrupted: `at.kill`, `at.pause` do so by themselves, any other calls `at.struck()`
        when what was in flight cannot be known and the attempt log must say it, or
        `at.struck(interrupts=False)` when nothing may be interrupted. It leaves `workers` of them running.
        """
        ...
