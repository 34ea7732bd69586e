"""A port that pages are served on for a while, and the URL to find them at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ssl import SSLContext

from aiohttp import web

from dispatcher.errors import ConfigurationError

#: How long a client may take for its TLS handshake, and for its end, in seconds.
_HANDSHAKE_S = 15.0
_FAREWELL_S = 5.0


@asynccontextmanager
async def served(runner: web.AppRunner, host: str, port: int, tls: SSLContext | None = None) -> AsyncIterator[str]:
    """Serves meanwhile; gives the URL. Raises `ConfigurationError` when the port cannot be had."""
    await runner.setup()
    try:
        try:
            site = web.TCPSite(runner, host, port) if tls is None else _TlsSite(runner, host, port, tls)
            await site.start()
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot listen on {host} port {port} ({getattr(error, 'strerror', None) or error});"
                " choose another with --host and --port, or free it"
            ) from error
        bound = runner.addresses[0]
        yield f"{'http' if tls is None else 'https'}://{_in_url(host)}:{bound[1]}"
    finally:
        await runner.cleanup()


class _TlsSite(web.BaseSite):
    """A port with TLS, on which a handshake has its time: aiohttp's own leaves it a minute."""

    __slots__ = ("_host", "_port")

    def __init__(self, runner: web.AppRunner, host: str, port: int, tls: SSLContext) -> None:
        super().__init__(runner, ssl_context=tls)
        self._host = host
        self._port = port

    @property
    def name(self) -> str:
        return f"https://{_in_url(self._host)}:{self._port}"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner was not set up")
        self._server = await asyncio.get_running_loop().create_server(
            server,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=_HANDSHAKE_S,
            ssl_shutdown_timeout=_FAREWELL_S,
        )


def _in_url(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - shown, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
