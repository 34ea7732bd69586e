"""Failures: what libraries and machines raise becomes a word of the closed set, here and nowhere else."""

import errno
import ssl
from collections.abc import Iterator

import aiohttp
from aiohttp import http_exceptions

from dispatcher.states import AttemptError
from dispatcher.transport.guard import Blocked

#: Nobody answered at that address: no connection came about, as when it is refused.
_UNREACHABLE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
#: This process or machine has run out of something.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Broken(Exception):
    """An exchange ended without an answer, for a reason of the closed set."""

    def __init__(self, error: AttemptError) -> None:
        super().__init__(error.value)
        self.error = error


def classify(error: BaseException) -> AttemptError:
    """The closed set's word for what a library raised. Cancellation travels on, and so does what no receiver causes."""
    match error:
        case Blocked():
            return AttemptError.BLOCKED
        case Broken():
            return error.error
        case OSError() if error.errno in _OURS:
            raise error
        case aiohttp.ConnectionTimeoutError():
            return AttemptError.CONNECT_TIMEOUT
        case TimeoutError():
            return AttemptError.TIMEOUT
        case aiohttp.ClientConnectorDNSError():
            return AttemptError.DNS
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return AttemptError.TLS
        case aiohttp.ClientOSError() if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
            # Of TLS 1.3, where a receiver looks at a client's certificate after the handshake.
            return AttemptError.TLS
        case ssl.SSLError():
            return AttemptError.TLS
        case aiohttp.ClientConnectorError():
            return unconnected(error.os_error)
        case _ if any(isinstance(cause, http_exceptions.LineTooLong) for cause in _causes(error)):
            return AttemptError.BODY_TOO_LARGE
        case aiohttp.ClientResponseError():
            return AttemptError.PROTOCOL
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return AttemptError.CONNECTION_RESET
        case http_exceptions.HttpProcessingError() | aiohttp.ClientError():
            return AttemptError.PROTOCOL
        case _:
            raise error


def of_endpoint_alone(error: BaseException) -> bool:
    """Whether a failure is about what the endpoint showed the receiver, and says nothing about the receiver's host.

    So it is where a client certificate cannot be used, and where the receiver ended TLS with an alert, as it does with
    who shows no certificate, or one that it does not take.
    """
    # What goes wrong with a connection's TLS is the cause of another exception; of aiohttp's, some call themselves so.
    of_tls = [
        cause
        for cause in _causes(error)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError)
    ]
    return error in of_tls or any("_ALERT_" in (cause.reason or "") for cause in of_tls)


def unconnected(error: OSError) -> AttemptError:
    """The word for what kept a connection from coming about. Raises what no receiver causes."""
    if error.errno in _OURS:
        raise error
    if error.errno == errno.ETIMEDOUT:
        return AttemptError.CONNECT_TIMEOUT
    if error.errno in _UNREACHABLE or type(error) is OSError:
        # A plain OSError without a number sums up several addresses, of which each failed in its own way.
        return AttemptError.CONNECTION_REFUSED
    return AttemptError.CONNECTION_RESET


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
