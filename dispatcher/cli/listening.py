"""A port that pages are served on for a while, and the URL to find them at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from dispatcher.errors import ConfigurationError


@asynccontextmanager
async def served(runner: web.AppRunner, host: str, port: int) -> AsyncIterator[str]:
    """Serves meanwhile; gives the URL. Raises `ConfigurationError` when the port cannot be had."""
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot listen on {host} port {port} ({getattr(error, 'strerror', None) or error});"
                " choose another with --host and --port, or free it"
            ) from error
        bound = runner.addresses[0]
        yield f"http://{_in_url(host)}:{bound[1]}"
    finally:
        await runner.cleanup()


def _in_url(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - shown, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
