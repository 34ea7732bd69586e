"""How the demo's two servers run: on any free port of this machine, which they print, until SIGTERM."""

import asyncio

from aiohttp import web

from dispatcher.cli.event_loop import stop_on_signals
from dispatcher.cli.listening import served


def serve(app: web.Application) -> None:
    """Serves `app` on a free port of 127.0.0.1 and prints its URL. Returns after SIGTERM or SIGINT."""
    asyncio.run(_serve(app))


async def _serve(app: web.Application) -> None:
    stop = stop_on_signals()
    async with served(web.AppRunner(app, access_log=None, shutdown_timeout=1.0), "127.0.0.1", 0) as url:
        print(f"Serving on {url}", flush=True)
        await stop.wait()
