"""Faults of PostgreSQL and the network before it: stopped, cut off, black-holed, sessions ended, its room taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import psycopg
from sqlalchemy.engine import make_url

from tests.asking import until
from tests.chaos.faults import POSTGRESQL, Fault
from tests.chaos.scene import Scene
from tests.chaos.siege import arrivals
from tests.chaos.tcp_proxy import TcpProxy
from tests.chaos.worker import Worker
from tests.postgres_server import OwnPostgres, server_of

PATIENCE_S = 40.0
#: How soon the room that somebody has left is taken again, in seconds.
AGAIN_S = 0.05

Session = psycopg.AsyncConnection[tuple[object, ...]]


class PostgresFault(Fault):
    """What these have in common."""

    dialects = POSTGRESQL
    _url: str

    @asynccontextmanager
    async def arranged(self, url: str) -> AsyncIterator[dict[str, str]]:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        yield {}

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        async with await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, application_name="fault"
        ) as session:
            yield session


class _OfTheServer(PostgresFault):
    """Needs a server of the tests' own: nobody else's is stopped."""

    whole_server = True
    disturbs_producers = True

    @property
    def _server(self) -> OwnPostgres:
        server = server_of(self._url)
        assert server is not None, "TEST_DATABASE_URL names a server that is not the tests' own"
        return server


class Stopped(_OfTheServer):
    """The server is stopped as by a crash, and started when every dispatcher has noticed."""

    name = "postgres-stopped"

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        noticed = _Complaints(at)
        await asyncio.to_thread(self._server.stop)
        try:
            await noticed.by_all()
        finally:
            await asyncio.to_thread(self._server.start)
        at.struck()


class Restarted(_OfTheServer):
    """The server crashes, and is started again at once."""

    name = "postgres-restarted"

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        await asyncio.to_thread(self._server.stop)
        await asyncio.to_thread(self._server.start)
        at.struck()


class SessionsEnded(PostgresFault):
    """pg_terminate_backend of everybody's sessions, ten times in a row, as soon as a few requests have come through."""

    name = "sessions-ended"
    workers = 2
    disturbs_producers = True

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        async with self._session() as session:
            for _ in range(10):
                await _end_others(session)
                await arrivals(at.witness, 5)
        at.struck()


class ConnectionsUsedUp(_OfTheServer):
    """Others take every connection that the server has, those too that it keeps for superusers, until all noticed."""

    name = "connections-used-up"

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        noticed = asyncio.ensure_future(_Complaints(at).by_all())
        async with AsyncExitStack() as taken:
            session = await taken.enter_async_context(self._session())
            try:
                while not noticed.done():
                    await self._take_all(taken)
                    # What a dispatcher has it keeps; so it must ask anew.
                    await _end_others(session)
                    await asyncio.wait([noticed], timeout=AGAIN_S)
            finally:
                await asyncio.gather(noticed)
        at.struck()

    async def _take_all(self, taken: AsyncExitStack) -> None:
        try:
            while True:
                await taken.enter_async_context(
                    await psycopg.AsyncConnection.connect(self._url, autocommit=True, application_name="fault")
                )
        except psycopg.OperationalError:
            # No room is left.
            return


class _OfTheNetwork(PostgresFault):
    """Dispatchers reach the server through a proxy."""

    _proxy: TcpProxy

    @asynccontextmanager
    async def arranged(self, url: str) -> AsyncIterator[dict[str, str]]:
        async with super().arranged(url) as settings, TcpProxy.before(url) as self._proxy:
            yield {**settings, "database_url": self._proxy.url(url)}


class Cut(_OfTheNetwork):
    """Every connection is reset, some times in a row; new ones come about."""

    name = "connections-reset"
    workers = 2

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        for _ in range(5):
            self._proxy.cut()
            await arrivals(at.witness, 10)
        at.struck()


class CutOff(_OfTheNetwork):
    """The server refuses every dispatcher, until all have noticed."""

    name = "postgres-refuses"
    workers = 2

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        noticed = _Complaints(at)
        await self._proxy.refuse()
        await noticed.by_all()
        await self._proxy.restore()
        at.struck()


class BlackHoled(_OfTheNetwork):
    """The network swallows everything, until the leases of all dispatchers have ended."""

    name = "postgres-black-holed"
    workers = 2

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        self._proxy.swallow()
        async with self._session() as session:
            await _until(session, "NOT EXISTS (SELECT FROM dispatchers WHERE leased_until > clock_timestamp())")
        await self._proxy.restore()
        at.struck()


class Slow(_OfTheNetwork):
    """Everything takes 30 ms more in each direction, for a while."""

    name = "postgres-slow"

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        self._proxy.slow_down(0.03)
        await arrivals(at.witness, 30)
        await self._proxy.restore()
        at.struck()


class Partitioned(_OfTheNetwork):
    """One of two dispatchers no longer reaches the database, while its POSTs go on, until the other has taken over."""

    name = "partition-of-one"
    workers = 2
    _apart: Worker | None = None

    async def strike(self, at: Scene, random: Random) -> None:
        await _all_up(at)
        if self._apart not in at.workers:
            # All were started behind the proxy; the other one must not be.
            await at.terminate(at.workers[-1])
            self._apart = at.workers[0]
            await (await at.start(DISPATCHER_DATABASE_URL=self._url)).up()
        self._proxy.swallow()
        await self.taken_over(self._apart)
        await self._proxy.restore()
        at.struck()

    async def taken_over(self, worker: Worker) -> None:
        """Returns when a dispatcher's lease has ended and nothing that it claimed is its own any more."""
        its_rows = f"SELECT row_id FROM dispatchers WHERE name LIKE '%:{worker.pid}'"
        leased = f"SELECT FROM dispatchers WHERE row_id IN ({its_rows}) AND leased_until > clock_timestamp()"
        held = f"SELECT FROM deliveries WHERE state = 'sending' AND dispatcher_row IN ({its_rows})"
        async with self._session() as session:
            await _until(session, f"NOT EXISTS ({leased}) AND NOT EXISTS ({held})")


async def _all_up(at: Scene) -> None:
    """A start on a database that does not answer fails, as it should; that is not what is looked for here."""
    for worker in at.workers:
        await worker.up()


class _Complaints:
    """What the dispatchers of a scene log of the database from now on."""

    def __init__(self, at: Scene) -> None:
        self._before = [(worker, len(worker.logged("store.unavailable"))) for worker in at.workers]

    async def by_all(self) -> None:
        """Returns when each has logged once more that the database does not answer."""
        await asyncio.gather(*(worker.logs("store.unavailable", count + 1) for worker, count in self._before))


async def _end_others(session: Session) -> None:
    await session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'fault'"
    )


async def _until(session: Session, condition: str) -> None:
    async def is_so() -> object:
        [holds] = await (await session.execute(f"SELECT {condition}".encode())).fetchone() or [False]
        return holds

    await until(is_so, patience_s=PATIENCE_S)


FAULTS: tuple[Fault, ...] = (
    Stopped(),
    Restarted(),
    SessionsEnded(),
    ConnectionsUsedUp(),
    Cut(),
    CutOff(),
    BlackHoled(),
    Slow(),
    Partitioned(),
)
