"""Linux's word that a file was written to, whoever wrote: so that nobody need look at it again and again."""

import asyncio
import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Self

_MODIFIED = 0x002
_FORGOTTEN = 0x8000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
#: wd, mask, cookie, length of the name that follows; a watched file's events have none.
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * _EVENT.size


class Writes:
    """Hears of writes to one file, which need not be there yet; a context manager.

    Raises `OSError` at the beginning where the system has no inotify, or the user has no more instances of it.
    """

    def __init__(self, file: Path) -> None:
        if sys.platform != "linux":
            raise OSError(f"{sys.platform} has no inotify")
        self._file = os.fsencode(file)
        # What the interpreter itself is linked with: no search for a library, which would start other programs.
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(self._libc.inotify_init1(_FLAGS))
        self._watches = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def listen(self) -> bool:
        """Listens from now on, if it did not; false when there is no such file, or it cannot be watched."""
        if not self._watches:
            added = self._libc.inotify_add_watch(self._descriptor, self._file, ctypes.c_uint32(_MODIFIED))
            self._watches = added >= 0
        return self._watches

    async def next(self, seconds: float) -> bool:
        """True when something was written since the last call; false when nothing was for `seconds`."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._descriptor, readable.set)
        try:
            async with asyncio.timeout(seconds):
                await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._descriptor)
        for _, mask, _, _ in _EVENT.iter_unpack(os.read(self._descriptor, _READ_BYTES)):
            if mask & _FORGOTTEN:
                # The file was deleted; a file of that name that comes later is another one.
                self._watches = False
        return True

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result
