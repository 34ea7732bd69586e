"""`dispatcher work`: a dispatcher without the API, in this process or in several under its watch."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import typer
from prometheus_client import CollectorRegistry

from dispatcher import logs
from dispatcher.cli import core_dumps, open_files
from dispatcher.cli.event_loop import make_collections_rare, run, stop_on_signals, unless_stopped
from dispatcher.cli.fleet import Fleet
from dispatcher.cli.health_pages import health_app
from dispatcher.cli.listening import served
from dispatcher.cli.options import given
from dispatcher.cli.session import check_file
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.engine.vitals import Condition
from dispatcher.settings import Settings, load
from dispatcher.store import migrate
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.urls import parse_database_url

#: Connections to the health pages at once.
_PAGE_CONNECTIONS = 100


def work(*, processes: int, port: int | None, host: str | None, until_idle: bool, supervised: bool) -> None:
    """Works until SIGTERM or SIGINT, or until nothing is due now. Raises `DispatcherError`."""
    settings = load(**given(host=host, work_port=port))
    check_file(settings)
    logs.configure(settings.log_format, settings.log_level)
    core_dumps.forbid()
    shown_on = None if supervised else settings.work_port
    if processes == 1:
        open_files.allow(settings.max_in_flight)
        run(_work(settings, shown_on, until_idle, supervised))
        return
    if parse_database_url(settings.database_url).dialect == "sqlite":
        raise typer.BadParameter(
            "a SQLite file has one dispatcher; several processes need PostgreSQL (DISPATCHER_DATABASE_URL)",
            param_hint="--processes",
        )
    if not run(_supervise(settings, processes, shown_on, until_idle)):
        raise typer.Exit(1)


async def _work(settings: Settings, port: int | None, until_idle: bool, supervised: bool) -> None:
    dispatcher = Dispatcher(settings=settings)
    stop = stop_on_signals(dispatcher.hurry)
    if supervised:
        await _stop_with_parent(stop)
    # Before it starts: this takes a tenth of a second, in which the first deliveries would wait.
    make_collections_rare()
    if not await unless_stopped(dispatcher.start(), stop):
        return
    async with AsyncExitStack() as stack:
        stack.push_async_callback(dispatcher.stop)
        if port is not None:
            # Only here: a process under supervision keeps its metrics in files for the parent.
            from dispatcher.metrics import registry

            await stack.enter_async_context(
                _pages(settings, dispatcher.deployment, registry, port, dispatcher.condition)
            )
        if until_idle:
            await _until_idle(dispatcher, stop)
        else:
            await dispatcher.run_until(stop)


async def _until_idle(dispatcher: Dispatcher, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    idle = loop.create_task(dispatcher.until_idle())
    ended = loop.create_task(dispatcher.run_until(stop))
    done, waiting = await asyncio.wait({idle, ended}, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()


async def _supervise(settings: Settings, processes: int, port: int | None, until_idle: bool) -> bool:
    stop = stop_on_signals()
    deployment = open_deployment(settings)
    try:
        if not await unless_stopped(migrate.check(deployment.database), stop):
            return True
        with tempfile.TemporaryDirectory(prefix="dispatcher-metrics-") as metrics_directory:
            fleet = Fleet(
                processes,
                until_idle=until_idle,
                grace_s=settings.shutdown_grace.total_seconds(),
                metrics_directory=metrics_directory,
                pages_port=port,
            )
            async with AsyncExitStack() as stack:
                if port is not None:
                    registry = fleet.registry()
                    await stack.enter_async_context(_pages(settings, deployment, registry, port, None))
                return await fleet.run(stop)
    finally:
        await deployment.database.close()


@asynccontextmanager
async def _pages(
    settings: Settings,
    deployment: Deployment,
    registry: CollectorRegistry,
    port: int,
    condition: Callable[[], Condition] | None,
) -> AsyncIterator[None]:
    # Only here: most workers show no pages, and start without all that the API needs.
    from dispatcher.api.runner import ApiRunner

    app = health_app(deployment, registry, condition)
    runner = ApiRunner(app, most_connections=_PAGE_CONNECTIONS, access_log=None, shutdown_timeout=1)
    async with served(runner, settings.host, port) as url:
        sys.stdout.write(f"Health and metrics on {url} (/healthz, /readyz, /metrics).\n")
        sys.stdout.flush()
        yield


async def _stop_with_parent(stop: asyncio.Event) -> None:
    class Parent(asyncio.Protocol):
        def connection_lost(self, error: Exception | None) -> None:
            # Its end of the pipe is closed: it stopped, or was killed and will not send a signal any more.
            stop.set()

    await asyncio.get_running_loop().connect_read_pipe(Parent, sys.stdin.buffer)
