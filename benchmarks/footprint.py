"""What one event costs PostgreSQL while it is drained: CPU, write-ahead log, commits."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.receivers import Receiver
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Footprint:
    """For each event: from its row in the outbox to its attempt on record, the insert of the event included."""

    cpu_us: float
    wal_bytes: float
    commits: float


async def measure(databases: Databases, receiver: Receiver, *, events: int) -> Footprint:
    """Publishes in batches, drains, and asks the server and the kernel what they counted. The server is local."""
    async with databases.scene("postgresql") as scene:
        await scene.endpoint(receiver.url, max_in_flight=100)
        await scene.scalar("SELECT pg_stat_force_next_flush()")
        server = _parent(int(await scene.scalar("SELECT pg_backend_pid()")))
        before = await _counted(scene, server)
        await scene.backlog(events)
        async with worker(scene, "--until-idle") as working:
            await working.ended()
        after = await _counted(scene, server)
    cpu_s, wal_bytes, commits = (now - then for now, then in zip(after, before, strict=True))
    return Footprint(cpu_s / events * 1e6, wal_bytes / events, commits / events)


async def _counted(scene: Scene, server: int) -> tuple[float, float, float]:
    wal = float(await scene.scalar("SELECT pg_current_wal_insert_lsn() - '0/0'"))
    commits = float(await scene.scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))
    return sum(_cpu_s(server)), wal, commits


def _cpu_s(server: int) -> Iterator[float]:
    """Of the server's processes: those that live, and those that have ended."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process.name) == server:
            yield sum(map(int, fields[11:15])) / _TICKS_PER_S
        elif int(fields[1]) == server:
            yield sum(map(int, fields[11:13])) / _TICKS_PER_S


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
