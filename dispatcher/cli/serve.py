"""`dispatcher serve`: the API and a dispatcher in one process, from a start that says what it needs to a clean stop."""

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dispatcher import logs
from dispatcher.api.app import create_app
from dispatcher.api.runner import ApiRunner
from dispatcher.api.tls import ServerTls
from dispatcher.cli import core_dumps, open_files
from dispatcher.cli.event_loop import make_collections_rare, run, stop_on_signals, unless_stopped
from dispatcher.cli.listening import served
from dispatcher.cli.options import given
from dispatcher.cli.session import check_file
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.errors import ConfigurationError
from dispatcher.service.job_readers import JobReaders
from dispatcher.settings import Settings, load


def serve(*, host: str | None, port: int | None, tls_cert: Path | None, tls_key: Path | None) -> None:
    """Serves until SIGTERM or SIGINT. Raises `DispatcherError` for what keeps it from starting."""
    settings = load(**given(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key))
    # Said, so that nothing is delivered to it.
    settings = settings.model_copy(update={"port": settings.port})
    tls = _tls(settings)
    check_file(settings)
    logs.configure(settings.log_format, settings.log_level)
    open_files.allow(settings.max_connections + settings.max_in_flight)
    core_dumps.forbid()
    run(_serve(settings, tls))


def _tls(settings: Settings) -> ServerTls | None:
    if settings.tls_cert is not None:
        return ServerTls(settings.tls_cert, settings.tls_key)
    if settings.tls_key is not None:
        raise ConfigurationError("DISPATCHER_TLS_KEY is set without DISPATCHER_TLS_CERT; name the certificate too")
    return None


async def _serve(settings: Settings, tls: ServerTls | None) -> None:
    dispatcher = Dispatcher(settings=settings)
    stop = stop_on_signals(dispatcher.hurry)
    own_key = settings.admin_key.get_secret_value() if settings.admin_key else None
    admin_key = own_key or f"whk_admin_{secrets.token_urlsafe(32)}"
    readers = JobReaders(dispatcher.deployment)
    dispatcher.on_numbered(readers.numbered)
    if not await unless_stopped(dispatcher.start(), stop):
        return
    async with AsyncExitStack() as stack:
        stack.push_async_callback(dispatcher.stop)
        app = create_app(
            dispatcher.deployment,
            admin_key=admin_key,
            on_published=dispatcher.wake,
            readers=readers,
            ingest=dispatcher.ingest,
            condition=dispatcher.condition,
        )
        grace_s = settings.shutdown_grace.total_seconds()
        runner = ApiRunner(app, most_connections=settings.max_connections, access_log=None, shutdown_timeout=grace_s)
        context = None if tls is None else tls.context
        url = await stack.enter_async_context(served(runner, settings.host, settings.port, context))
        if tls is not None:
            await stack.enter_async_context(_renewed(tls))
        make_collections_rare()
        _say(f"Serving on {url} (API reference: {url}/docs). Stop with Ctrl-C.")
        if own_key is None:
            _say(f"Admin key, for this run only since DISPATCHER_ADMIN_KEY is not set: {admin_key}")
        await dispatcher.run_until(stop)


@asynccontextmanager
async def _renewed(tls: ServerTls) -> AsyncIterator[None]:
    """Meanwhile the certificate is taken anew when its files change: at once on SIGHUP."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, tls.renew)
    looking = loop.create_task(tls.keep_fresh())
    try:
        yield
    finally:
        looking.cancel()
        loop.remove_signal_handler(signal.SIGHUP)


def _say(line: str) -> None:
    # Not a log line: it may hold the admin key, and logs are kept.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
