"""Puts the application on a socket; what is no HTTP at all is answered with a problem too."""

from typing import Any

from aiohttp import web

from dispatcher.api.problems import MEDIA_TYPE, malformed


class _Connection(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        # The parser's own message quotes the request, whose URL and headers may hold somebody's key.
        reason = "is too long" if status == 414 or (exc and "too long" in str(exc).lower()) else "is malformed"
        detail = f"the request line or a header {reason}"
        response = web.Response(status=status, body=malformed(detail, status), content_type=MEDIA_TYPE)
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, made: web.Server, options: dict[str, Any]) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **options,
        )
        self._options = options

    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._options)


class ApiRunner(web.AppRunner):
    """An `AppRunner` for the API: `await setup()`, then `web.TCPSite(runner, host, port).start()`."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        # A refused body is read on for this long, so that its sender sees the refusal and not a reset.
        options.setdefault("lingering_time", 2.0)
        super().__init__(app, **options)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, made._kwargs)
