"""The command line with a wall clock that is set from outside: `python -m tests.chaos.adrift work …`.

DISPATCHER_ADRIFT names a file of eight bytes: by how many seconds this process's wall clock is off, as a double. Every
reader of the wall clock is patched: ours, and apscheduler's. Monotonic time and the database's clock go on as they are.
"""

import mmap
import os
import struct
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import apscheduler.executors.base
import apscheduler.schedulers.base

import dispatcher.clock
import dispatcher.engine.schedule
from dispatcher.cli.main import main


def set_off(file: Path, seconds: float) -> None:
    """Sets the wall clock of all processes under this file so far off."""
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(struct.pack("d", seconds))


def _adrift(file: Path) -> type[datetime]:
    with file.open("rb") as opened:
        off = mmap.mmap(opened.fileno(), 8, access=mmap.ACCESS_READ)

    class Adrift(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=struct.unpack("d", off[:8])[0])

    return Adrift


if __name__ == "__main__":
    adrift = _adrift(Path(os.environ["DISPATCHER_ADRIFT"]))
    for module in (
        dispatcher.clock,
        dispatcher.engine.schedule,
        apscheduler.schedulers.base,
        apscheduler.executors.base,
    ):
        vars(module)["datetime"] = adrift
    main()
