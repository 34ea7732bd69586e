"""`dispatcher serve`: the API and a dispatcher in one process, from a start that says what it needs to a clean stop."""

import secrets
import sys
from contextlib import AsyncExitStack

from dispatcher import logs
from dispatcher.api.app import create_app
from dispatcher.api.runner import ApiRunner
from dispatcher.cli import core_dumps, open_files
from dispatcher.cli.event_loop import make_collections_rare, run, stop_on_signals, unless_stopped
from dispatcher.cli.listening import served
from dispatcher.cli.options import given
from dispatcher.cli.session import check_file
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.service.job_readers import JobReaders
from dispatcher.settings import Settings, load


def serve(*, host: str | None, port: int | None) -> None:
    """Serves until SIGTERM or SIGINT. Raises `DispatcherError` for what keeps it from starting."""
    settings = load(**given(host=host, port=port))
    # Said, so that nothing is delivered to it.
    settings = settings.model_copy(update={"port": settings.port})
    check_file(settings)
    logs.configure(settings.log_format, settings.log_level)
    open_files.allow(settings.max_connections + settings.max_in_flight)
    core_dumps.forbid()
    run(_serve(settings))


async def _serve(settings: Settings) -> None:
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
        url = await stack.enter_async_context(served(runner, settings.host, settings.port))
        make_collections_rare()
        _say(f"Serving on {url} (API reference: {url}/docs). Stop with Ctrl-C.")
        if own_key is None:
            _say(f"Admin key, for this run only since DISPATCHER_ADMIN_KEY is not set: {admin_key}")
        await dispatcher.run_until(stop)


def _say(line: str) -> None:
    # Not a log line: it may hold the admin key, and logs are kept.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
