"""The dispatching role on a SQLite file: one process holds it, by a lock that the kernel gives back when it dies."""

import fcntl
import os
from pathlib import Path

from dispatcher.errors import AlreadyRunning


class Role:
    """A lock file beside the database. Its content, the holder's pid, is for people; the lock is what counts."""

    def __init__(self, database_file: Path) -> None:
        # Resolved: two names of one file must meet at one lock.
        real = database_file.resolve()
        self._path = real.with_name(real.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Takes the role. Raises `AlreadyRunning` with the holder's pid."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(
                f"another dispatcher works on this SQLite file (pid {holder}); stop it first,"
                " or use PostgreSQL for more than one"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def give_back(self) -> None:
        """Gives the role back. The file stays: deleting it would let two processes lock two files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
