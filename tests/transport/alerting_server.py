"""A TLS server that says why it refuses a client, as OpenSSL's do; asyncio's hang up without a word."""

import socket
import ssl
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.transport.raw_receiver import OK


class AlertingServer:
    """The server, in a thread of its own; a context manager. Answers one request per connection."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._socket.getsockname()[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Closing alone wakes nobody who waits to accept.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._converse(self._socket.accept()[0])

    def _converse(self, accepted: socket.socket) -> None:
        spoken = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        spoken.settimeout(10)
        try:
            spoken.do_handshake()
            self.requests.append(spoken.recv(2**16))
            spoken.sendall(OK)
            spoken.close()
        except ssl.SSLError:
            # Unread bytes would turn its close into a reset, which may overtake the alert.
            with socket.socket(fileno=spoken.detach()) as bare, suppress(OSError):
                bare.settimeout(10)
                bare.shutdown(socket.SHUT_WR)
                while bare.recv(2**16):
                    pass
