"""The dispatcher's one writer on a SQLite file: a thread, a connection, and short immediate transactions.

What waits for it at the same time shares a transaction, and with it the commit's flush.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dispatcher.errors import StoreUnavailable
from dispatcher.store.sqlite.checkpoints import Checkpoints
from dispatcher.store.sqlite.connection import Connection, version_of
from dispatcher.store.sqlite_engine import is_outage

T = TypeVar("T")

#: Rows that works which share a transaction change in all, about: the first of them waits for the last.
SHARED_ROWS = 200


class _Work:
    """What the thread is to do, and who is told of it."""

    __slots__ = ("answer", "answered", "due", "error", "only_if", "rows", "run", "wanted")

    def __init__(
        self, run: Callable[[Connection], Any], rows: int | None, only_if: Callable[[Connection], bool] | None
    ) -> None:
        self.run = run
        #: How many it changes, about; null: it only reads.
        self.rows = rows
        #: Looked at before a transaction is opened for it alone; else its answer is null.
        self.only_if = only_if
        self.answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.wanted = True
        #: False as long as it may wait for another's transaction.
        self.due = True
        self.answer: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        """Whoever waits for it, in their loop."""
        if self.answered.done():
            return
        if self.error is None:
            self.answered.set_result(self.answer)
        else:
            self.answered.set_exception(self.error)


class Writer:
    """The thread that owns the connection."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dispatcher-sqlite")
        self._checkpoints = Checkpoints(file)
        self._connection: Connection | None = None
        self._waiting: deque[_Work] = deque()
        self._riding: deque[_Work] = deque()
        self._at_work = 0

    def version(self) -> int | None:
        """A number that changes with every commit of another connection; null while the thread is at work.

        Read here and now, which takes microseconds: a way through the thread costs ten times that.
        """
        if self._at_work or self._connection is None:
            return None
        return version_of(self._connection)

    async def transact(
        self, work: Callable[[Connection], T], *, rows: int = SHARED_ROWS + 1, linger_s: float = 0.0
    ) -> T:
        """Runs `work` in an immediate transaction. Raises `StoreUnavailable` when the file cannot be written.

        `rows`: how many it changes, about. With few, it may share the transaction with what waits beside it; where one
        of them fails, each gets a transaction of its own, and runs anew. `linger_s`: how long it may wait for another
        to share with, so that no flush of its own is in the way of one that comes soon.
        """
        result: T = await self._in_thread(_Work(work, rows, None), linger_s)
        return result

    async def transact_if(
        self, only_if: Callable[[Connection], bool], work: Callable[[Connection], T], *, rows: int
    ) -> T | None:
        """As `transact`, unless a look says that there is nothing to do: then no transaction is begun for it."""
        result: T | None = await self._in_thread(_Work(work, rows, only_if))
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` without a transaction: for one statement that only reads."""
        result: T = await self._in_thread(_Work(work, None, None))
        return result

    async def close(self) -> None:
        """Closes the connection and ends the thread."""
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close, self._connection)
        self._thread.shutdown(wait=True)

    async def _in_thread(self, work: _Work, linger_s: float = 0.0) -> Any:
        if linger_s:
            work.due = False
            self._riding.append(work)
            asyncio.get_running_loop().call_later(linger_s, self._no_longer, work)
        else:
            self._waiting.append(work)
            self._submit(work)
        try:
            # A transaction that has started is finished: half of it must not run beside its caller's clean-up. One that
            # still waits for somebody else's to end is not begun.
            return await asyncio.shield(work.answered)
        except asyncio.CancelledError:
            work.wanted = False
            await asyncio.wait([work.answered])
            if not work.answered.cancelled():
                # Nobody is left to be told of it.
                work.answered.exception()
            raise
        except sqlite3.OperationalError as error:
            if not is_outage(error):
                raise
            raise StoreUnavailable(f"the database file cannot be used: {error}") from error

    def _no_longer(self, work: _Work) -> None:
        if not work.answered.done():
            work.due = True
            self._submit(work)

    def _submit(self, work: _Work) -> None:
        self._at_work += 1
        work.answered.add_done_callback(self._ended)
        self._thread.submit(self._turn)

    def _ended(self, _: "asyncio.Future[Any]") -> None:
        self._at_work -= 1

    def _turn(self) -> None:
        together = self._next()
        if not together:
            # An earlier turn has taken it along.
            return
        try:
            self._run(together)
        except BaseException as error:  # noqa: BLE001 - told to those who wait
            for work in together:
                work.error = error
        loop = together[0].answered.get_loop()
        loop.call_soon_threadsafe(_tell, together)

    def _next(self) -> list[_Work]:
        together: list[_Work] = []
        rows = 0
        for queue in (self._waiting, self._riding):
            while queue:
                more = queue[0].rows
                if together and (more is None or rows + more > SHARED_ROWS):
                    break
                if not together and not queue[0].due:
                    break
                together.append(queue.popleft())
                if more is None:
                    return together
                rows += more
        return together

    def _run(self, together: Sequence[_Work]) -> None:
        if self._connection is None:
            self._connection = Connection(self.file)
        connection = self._connection
        only = together[0] if len(together) == 1 else None
        if only is not None and only.rows is None:
            only.answer = only.run(connection)
            return
        if only is not None and only.only_if is not None and not only.only_if(connection):
            return
        connection.begin(lambda: any(work.wanted for work in together))
        try:
            for work in together:
                # Who has gone meanwhile had not begun.
                if work.wanted:
                    work.answer = work.run(connection)
        except BaseException:
            connection.roll_back()
            if only is not None:
                raise
            self._run_apart(together)
            return
        try:
            connection.commit()
        except BaseException:
            connection.roll_back()
            raise
        self._checkpoints.committed()

    def _run_apart(self, together: Sequence[_Work]) -> None:
        for work in together:
            try:
                self._run([work])
            except Exception as error:  # noqa: BLE001 - told to who waits for it
                work.error = error

    def _close(self, connection: Connection) -> None:
        self._checkpoints.close()
        connection.close()
        self._connection = None


def _tell(together: Sequence[_Work]) -> None:
    for work in together:
        work.tell()
