"""Foreign exceptions become words of ours in one place, and none is forgotten there."""

import errno

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from dispatcher.states import AttemptError
from dispatcher.transport.failures import classify
from dispatcher.transport.guard import Blocked

_KEY = ConnectionKey("h", 443, True, True, None, None, None)
_INFO = aiohttp.RequestInfo(URL("http://h/"), "POST", {}, URL("http://h/"))  # type: ignore[arg-type]


def _os_error(code: int) -> OSError:
    return OSError(code, "x")


#: One of each exception that aiohttp's client has, with the word it must become.
EXPECTED: dict[type[BaseException], tuple[BaseException, AttemptError]] = {
    type(made): (made, word)
    for made, word in (
        (aiohttp.ClientError(), AttemptError.PROTOCOL),
        (aiohttp.ClientResponseError(_INFO, ()), AttemptError.PROTOCOL),
        (aiohttp.ContentTypeError(_INFO, ()), AttemptError.PROTOCOL),
        (aiohttp.WSServerHandshakeError(_INFO, ()), AttemptError.PROTOCOL),
        (aiohttp.ClientHttpProxyError(_INFO, ()), AttemptError.PROTOCOL),
        (aiohttp.TooManyRedirects(_INFO, ()), AttemptError.PROTOCOL),
        (aiohttp.ClientConnectionError(), AttemptError.CONNECTION_RESET),
        (aiohttp.ClientConnectionResetError(), AttemptError.CONNECTION_RESET),
        (aiohttp.ClientOSError(errno.ECONNRESET, "x"), AttemptError.CONNECTION_RESET),
        (aiohttp.ClientConnectorError(_KEY, _os_error(errno.ECONNREFUSED)), AttemptError.CONNECTION_REFUSED),
        (aiohttp.ClientConnectorDNSError(_KEY, _os_error(-2)), AttemptError.DNS),
        (aiohttp.ClientProxyConnectionError(_KEY, _os_error(errno.ECONNREFUSED)), AttemptError.CONNECTION_REFUSED),
        (
            client_exceptions.UnixClientConnectorError("/x", _KEY, _os_error(errno.ECONNREFUSED)),
            AttemptError.CONNECTION_REFUSED,
        ),
        (aiohttp.ClientSSLError(_KEY, _os_error(1)), AttemptError.TLS),
        (aiohttp.ClientConnectorSSLError(_KEY, _os_error(1)), AttemptError.TLS),
        (aiohttp.ClientConnectorCertificateError(_KEY, Exception("x")), AttemptError.TLS),
        (aiohttp.ServerConnectionError(), AttemptError.CONNECTION_RESET),
        (aiohttp.ServerDisconnectedError(), AttemptError.CONNECTION_RESET),
        (aiohttp.ServerTimeoutError(), AttemptError.TIMEOUT),
        (aiohttp.ConnectionTimeoutError(), AttemptError.CONNECT_TIMEOUT),
        (aiohttp.SocketTimeoutError(), AttemptError.TIMEOUT),
        (aiohttp.ServerFingerprintMismatch(b"a", b"b", "h", 1), AttemptError.CONNECTION_RESET),
        (aiohttp.ClientPayloadError(), AttemptError.CONNECTION_RESET),
        (client_exceptions.UploadAbortedError(), AttemptError.PROTOCOL),
        (aiohttp.InvalidURL("x"), AttemptError.PROTOCOL),
        (aiohttp.InvalidUrlClientError("x"), AttemptError.PROTOCOL),
        (aiohttp.RedirectClientError("x"), AttemptError.PROTOCOL),
        (aiohttp.NonHttpUrlClientError("x"), AttemptError.PROTOCOL),
        (aiohttp.InvalidUrlRedirectClientError("x"), AttemptError.PROTOCOL),
        (aiohttp.NonHttpUrlRedirectClientError("x"), AttemptError.PROTOCOL),
        (http_exceptions.HttpProcessingError(), AttemptError.PROTOCOL),
        (http_exceptions.BadHttpMessage("x"), AttemptError.PROTOCOL),
        (http_exceptions.LineTooLong(b"x", 1), AttemptError.BODY_TOO_LARGE),
        (TimeoutError(), AttemptError.TIMEOUT),
        (ConnectionResetError(), AttemptError.CONNECTION_RESET),
        (Blocked("x"), AttemptError.BLOCKED),
    )
}


@pytest.mark.parametrize("kind", list(EXPECTED), ids=lambda kind: kind.__name__)
def test_each_foreign_exception_becomes_a_word_of_ours(kind: type[BaseException]) -> None:
    error, word = EXPECTED[kind]
    assert classify(error) is word


def test_the_map_of_aiohttps_client_exceptions_is_complete() -> None:
    found, todo = set(), [aiohttp.ClientError]
    while todo:
        kind = todo.pop()
        found.add(kind)
        todo += [child for child in kind.__subclasses__() if child.__module__.startswith("aiohttp")]
    assert found - EXPECTED.keys() == set()


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (errno.ETIMEDOUT, AttemptError.CONNECT_TIMEOUT),
        (errno.EHOSTUNREACH, AttemptError.CONNECTION_REFUSED),
        (errno.ENETUNREACH, AttemptError.CONNECTION_REFUSED),
    ],
)
def test_a_host_that_cannot_be_reached_is_no_broken_connection(code: int, word: AttemptError) -> None:
    assert classify(aiohttp.ClientConnectorError(_KEY, _os_error(code))) is word


def test_addresses_that_each_fail_in_their_own_way_are_no_broken_connection() -> None:
    # What the happy eyeballs race raises when one address refuses and another one has no route.
    several = OSError("Multiple exceptions: …")
    assert classify(aiohttp.ClientConnectorError(_KEY, several)) is AttemptError.CONNECTION_REFUSED
    broken = ConnectionResetError("in the handshake")
    assert classify(aiohttp.ClientConnectorError(_KEY, broken)) is AttemptError.CONNECTION_RESET


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_what_this_machine_has_run_out_of_is_not_blamed_on_the_receiver(code: int) -> None:
    error = aiohttp.ClientConnectorError(_KEY, _os_error(code))
    with pytest.raises(aiohttp.ClientConnectorError):
        classify(error)


def test_a_fault_of_ours_is_not_blamed_on_the_receiver() -> None:
    with pytest.raises(ZeroDivisionError):
        classify(ZeroDivisionError())
