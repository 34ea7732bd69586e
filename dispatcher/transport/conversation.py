"""One connection of the lean client: an `asyncio.Protocol` that asks, and parses the answer with httptools (llhttp).

It is in one of two states: nobody has asked, and every byte that comes ends it; or somebody waits for an answer.
"""

import asyncio
import ssl
from typing import cast

import httptools

from dispatcher.states import AttemptError
from dispatcher.transport.failures import Broken
from dispatcher.transport.message import ANSWER_LIMIT, INTERIM_LIMIT, Answer

#: A line of an answer's head has at most so many bytes, and its head so many lines: as aiohttp has it.
LINE_LIMIT = 8190
LINES_LIMIT = 128

_RETRY_AFTER, _ENCODING, _LENGTH, _TRANSFER = (
    b"retry-after",
    b"content-encoding",
    b"content-length",
    b"transfer-encoding",
)
#: Of most headers the name's length tells that they are none of these.
_READ = {len(name): name for name in (_RETRY_AFTER, _ENCODING, _LENGTH, _TRANSFER)}


class Conversation(asyncio.Protocol):
    """Asks over one connection, one question at a time."""

    __slots__ = (
        "_answer", "_beginning", "_bounded", "_encoding", "_in_head", "_interim", "_keep", "_limit", "_lines",
        "_loop", "_open", "_parser", "_received", "_retry_after", "_transport", "_unfinished", "idle_since",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop, self._limit = loop, limit
        self._parser = httptools.HttpResponseParser(self)
        # What old servers do, and aiohttp lets through.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self._answer: asyncio.Future[Answer] | None = None
        self._open = self._keep = self._in_head = self._bounded = False
        self._lines = self._unfinished = self._interim = self._received = 0
        self._retry_after: str | None = None
        self._encoding: str | None = None
        self._beginning = b""
        #: When it was last given back, in the loop's time.
        self.idle_since = 0.0

    @property
    def fit(self) -> bool:
        """Whether it may be asked (again): it is open, and nothing of the last answer or request is left over."""
        return (
            self._open
            and self._keep
            and self._answer is None
            # The other end has closed it, of which `connection_lost` tells in the loop's next turn.
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    def ask(self, message: bytes) -> "asyncio.Future[Answer]":
        """Sends it. The answer comes, or `Broken` is raised."""
        if not self._open:
            raise Broken(AttemptError.CONNECTION_RESET)
        self._answer = answer = self._loop.create_future()
        self._interim = self._received = 0
        self._listen()
        self._transport.write(message)
        return answer

    def close(self) -> None:
        """Ends it; nobody waits for an answer."""
        self._open = False
        self._transport.close()

    def abort(self) -> None:
        """Ends it at once, whatever waits to be sent; whoever waits for an answer has stopped waiting."""
        self._open, self._answer = False, None
        self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._open = self._keep = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            # It would be taken for the answer to what is asked next.
            self.abort()
            return
        lines = self._lines
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Another protocol follows the answer, which is complete.
            self._keep = False
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            self._fail(AttemptError.PROTOCOL)
        else:
            if self._answer is None:
                return
            self._received += len(data)
            if self._in_head:
                self._unfinished = self._unfinished + len(data) if self._lines == lines else 0
                if self._unfinished > LINE_LIMIT or self._received > ANSWER_LIMIT:
                    self._fail(AttemptError.BODY_TOO_LARGE)
            elif self._received > ANSWER_LIMIT:
                # The rest is not waited for, and most of what came was no body.
                self._keep = False
                self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        if error is None and not self._in_head and not self._bounded:
            self._finish()
        else:
            broken = Broken(AttemptError.TLS if isinstance(error, ssl.SSLError) else AttemptError.CONNECTION_RESET)
            broken.__cause__ = error
            self._raise(broken)
        # The two refer to each other, and the collector of cycles comes seldom.
        del self._parser

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._answer is None:
            # More than one answer.
            self._keep = False

    def on_status(self, reason: bytes) -> None:
        if len(reason) > LINE_LIMIT:
            self._fail(AttemptError.BODY_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            # A trailer.
            return
        self._lines += 1
        length = len(name)
        if self._lines > LINES_LIMIT:
            self._fail(AttemptError.PROTOCOL)
        elif length + len(value) > LINE_LIMIT:
            self._fail(AttemptError.BODY_TOO_LARGE)
        elif length in _READ and name.lower() == _READ[length]:
            self._note(_READ[length], value)

    def on_headers_complete(self) -> None:
        if self._answer is not None:
            self._in_head = False
            self._keep = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if self._answer is None:
            return
        self._beginning += data
        if len(self._beginning) >= self._limit:
            # The rest is not waited for.
            self._keep = False
            self._finish()

    def on_message_complete(self) -> None:
        if self._answer is None:
            return
        status = self._parser.get_status_code()
        # 1xx come before the answer, except the switch to another protocol, which nothing follows.
        if not 100 <= status <= 199 or status == 101:
            self._finish()
            return
        self._interim += 1
        if self._interim > INTERIM_LIMIT:
            self._fail(AttemptError.PROTOCOL)
        self._listen()

    def _listen(self) -> None:
        self._in_head, self._bounded = True, False
        self._lines = self._unfinished = 0
        self._retry_after = self._encoding = None
        self._beginning = b""

    def _note(self, name: bytes, value: bytes) -> None:
        if name == _LENGTH:
            self._bounded = True
        elif name == _TRANSFER:
            self._bounded = value.lower().rstrip().endswith(b"chunked")
        elif name == _RETRY_AFTER:
            self._retry_after = self._retry_after or value.decode("latin-1")
        else:
            self._encoding = self._encoding or value.decode("latin-1")

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            status = self._parser.get_status_code()
            answer.set_result(Answer(status, self._retry_after, self._encoding, self._beginning[: self._limit]))

    def _fail(self, error: AttemptError) -> None:
        self._raise(Broken(error))
        self.abort()

    def _raise(self, error: Broken) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
            # Seen, even if whoever waits is being cancelled right now.
            answer.exception()
