"""The verdict table, row by row and end to end: what a receiver answers, and what becomes of delivery and endpoint."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest
from aiohttp import web

from dispatcher import metrics
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason
from tests.bad_receiver import BadReceiver, Misbehaviour
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered
from tests.receiver import Answer, Received, Receiver

RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Consequence:
    """What can be seen of a verdict in the database."""

    state: DeliveryState
    reason: Reason | None = None
    error: AttemptError | None = None
    status: int | None = None
    #: Seconds until it is due again.
    due_in_s: float | None = None
    #: Whether it counts towards the endpoint's back-off.
    backs_off: bool = False
    #: Seconds for which the whole endpoint is left alone.
    paused_s: float | None = None
    endpoint: tuple[EndpointStatus, Reason | None] = (EndpointStatus.ENABLED, None)


def _delivered(status: int, *, paused_s: float | None = None) -> Consequence:
    return Consequence(DeliveryState.DELIVERED, status=status, paused_s=paused_s)


def _retried(
    status: int | None = None,
    error: AttemptError = AttemptError.HTTP_STATUS,
    *,
    backs_off: bool = False,
    paused_s: float | None = None,
) -> Consequence:
    due_in_s = max(RETRY_S, paused_s or 0.0)
    return Consequence(DeliveryState.PENDING, None, error, status, due_in_s, backs_off, paused_s)


SUCCESSES = (200, 201, 202, 203, 204, 206, 299)
REDIRECTS = (300, 301, 302, 303, 304, 307, 308)
OVERLOADS = (429, 502, 503, 504)
REFUSALS = (400, 401, 403)
OTHERS = (402, 404, 405, 406, 408, 409, 415, 418, 421, 422, 425, 431, 451, 499, 500, 501, 505, 507, 511, 520, 599)

BY_STATUS = {
    **{status: _delivered(status) for status in SUCCESSES},
    **{status: _retried(status) for status in REDIRECTS + REFUSALS + OTHERS},
    **{status: _retried(status, backs_off=True) for status in OVERLOADS},
    410: Consequence(
        DeliveryState.DEAD,
        Reason.GONE,
        AttemptError.HTTP_STATUS,
        410,
        endpoint=(EndpointStatus.DISABLED, Reason.GONE),
    ),
    413: Consequence(DeliveryState.DEAD, Reason.TOO_LARGE, AttemptError.HTTP_STATUS, 413),
}


async def _consequence(outpost: Outpost, endpoint: Registered) -> Consequence:
    now = outpost.clock.now()
    (row,) = [row for row in await outpost.deliveries() if row.endpoint_row == endpoint.row]
    known = await outpost.endpoint_now(endpoint)
    (attempt,) = [attempt for attempt in await outpost.attempts() if attempt.delivery_row == row.row_id]
    assert (attempt.status, attempt.error) == (row.last_status, row.last_error)
    letters = [letter.reason for letter in await outpost.letters() if letter.delivery_row == row.row_id]
    assert letters == ([row.reason] if row.state == DeliveryState.DEAD else [])
    return Consequence(
        DeliveryState(row.state),
        row.reason and Reason(row.reason),
        row.last_error and AttemptError(row.last_error),
        row.last_status,
        None if row.due_at is None else (row.due_at - now).total_seconds(),
        known.backoff_failures > 0,
        None if known.paused_until is None else (known.paused_until - now).total_seconds(),
        (EndpointStatus(known.status), known.disabled_reason and Reason(known.disabled_reason)),
    )


async def _answered(outpost: Outpost, receiver: Receiver, answer: Answer) -> Consequence:
    """What one event to one endpoint comes to."""
    receiver.answers("/hook", answer)
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(RETRY_S,))
    return await _attempted(outpost, endpoint)


async def _attempted(outpost: Outpost, endpoint: Registered, **settings: object) -> Consequence:
    await outpost.publish()
    async with outpost.dispatcher(**settings) as dispatcher:
        await dispatcher.until_idle()
    return await _consequence(outpost, endpoint)


def _with_retry_after(status: int, value: str) -> Answer:
    return lambda _: web.Response(status=status, headers={"Retry-After": value})


async def test_every_status_has_the_consequence_that_the_table_says(outpost: Outpost, receiver: Receiver) -> None:
    endpoints = {}
    for status in BY_STATUS:
        receiver.answers(f"/{status}", status)
        endpoints[status] = await outpost.endpoint(receiver.url(f"/{status}"), retry_schedule=(RETRY_S,))
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert {status: await _consequence(outpost, endpoint) for status, endpoint in endpoints.items()} == BY_STATUS
    assert len(receiver.received()) == len(BY_STATUS)


async def test_a_redirect_is_a_failure_and_is_never_followed(outpost: Outpost, receiver: Receiver) -> None:
    def elsewhere(_: Received) -> web.Response:
        return web.Response(status=307, headers={"Location": receiver.url("/elsewhere")})

    assert await _answered(outpost, receiver, elsewhere) == _retried(307)
    assert not receiver.received("/elsewhere")


async def test_answers_that_a_wrong_secret_gets_are_counted_as_refused(outpost: Outpost, receiver: Receiver) -> None:
    before = _refused()
    for status in (*REFUSALS, 404, 500, 200):
        receiver.answers(f"/{status}", status)
        await outpost.endpoint(receiver.url(f"/{status}"))
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert _refused() - before == len(REFUSALS)


def _refused() -> float:
    value = metrics.registry.get_sample_value("dispatcher_requests_refused_total")
    assert value is not None
    return value


RETRY_AFTER = {
    (503, "120"): _retried(503, backs_off=True, paused_s=120.0),
    (429, "120"): _retried(429, backs_off=True, paused_s=120.0),
    # The delivery's own schedule counts where it is longer.
    (503, "7"): _retried(503, backs_off=True, paused_s=7.0),
    # On any answer.
    (404, "120"): _retried(404, paused_s=120.0),
    (301, "120"): _retried(301, paused_s=120.0),
    (200, "120"): _delivered(200, paused_s=120.0),
    # An HTTP date: two minutes from the clock's beginning, and one in the past.
    (503, "Thu, 01 Jan 2026 12:02:00 GMT"): _retried(503, backs_off=True, paused_s=120.0),
    (503, "Thu, 01 Jan 2026 11:59:00 GMT"): _retried(503, backs_off=True),
    # Capped.
    (503, "999999"): _retried(503, backs_off=True, paused_s=3600.0),
    (503, "Sat, 10 Jan 2026 12:00:00 GMT"): _retried(503, backs_off=True, paused_s=3600.0),
    # Nothing to wait for, or nothing that can be understood.
    (503, "0"): _retried(503, backs_off=True),
    (503, "soon"): _retried(503, backs_off=True),
    (503, "-5"): _retried(503, backs_off=True),
}


async def test_retry_after_pauses_the_endpoint_on_any_answer_in_both_forms_and_up_to_the_cap(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoints = {}
    for n, (status, value) in enumerate(RETRY_AFTER):
        receiver.answers(f"/{n}", _with_retry_after(status, value))
        endpoints[status, value] = await outpost.endpoint(receiver.url(f"/{n}"), retry_schedule=(RETRY_S,))
    await outpost.publish()
    async with outpost.dispatcher(retry_after_max=timedelta(hours=1)) as dispatcher:
        await dispatcher.until_idle()
    assert {key: await _consequence(outpost, endpoint) for key, endpoint in endpoints.items()} == RETRY_AFTER


async def test_whatever_a_receiver_does_to_http_is_a_failed_attempt_with_its_code(
    outpost: Outpost, bad_receiver: BadReceiver
) -> None:
    expected = {
        Misbehaviour.HANG: _retried(error=AttemptError.TIMEOUT, backs_off=True),
        Misbehaviour.DRIP: _retried(error=AttemptError.TIMEOUT, backs_off=True),
        Misbehaviour.RESET: _retried(error=AttemptError.CONNECTION_RESET),
        Misbehaviour.CLOSE: _retried(error=AttemptError.CONNECTION_RESET),
        Misbehaviour.LIE_ABOUT_LENGTH: _retried(error=AttemptError.CONNECTION_RESET),
        # Their status says that they took it; of the rest of the answer only the beginning is read.
        Misbehaviour.HUGE: _delivered(200),
        Misbehaviour.BOMB: _delivered(200),
        Misbehaviour.GARBAGE: _retried(error=AttemptError.PROTOCOL),
        Misbehaviour.ENDLESS_HEADERS: _retried(error=AttemptError.PROTOCOL),
    }
    assert set(expected) == set(Misbehaviour)
    endpoints = {
        misbehaviour: await outpost.endpoint(bad_receiver.url(misbehaviour), retry_schedule=(RETRY_S,), timeout_s=0.5)
        for misbehaviour in expected
    }
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert {what: await _consequence(outpost, endpoint) for what, endpoint in endpoints.items()} == expected
    assert set(bad_receiver.hits) == set(Misbehaviour)


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose listener accepts nobody: its queue is full, and the kernel drops whoever comes."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [stack.enter_context(socket.socket()) for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        yield int(address[1])


async def test_a_refused_connection_is_retried_and_backs_the_endpoint_off(outpost: Outpost, closed_port: int) -> None:
    endpoint = await outpost.endpoint(f"http://127.0.0.1:{closed_port}/", retry_schedule=(RETRY_S,))
    expected = _retried(error=AttemptError.CONNECTION_REFUSED, backs_off=True)
    assert await _attempted(outpost, endpoint) == expected


async def test_a_connection_that_does_not_come_about_in_time_is_retried_and_backs_the_endpoint_off(
    outpost: Outpost, full_port: int
) -> None:
    endpoint = await outpost.endpoint(f"http://127.0.0.1:{full_port}/", retry_schedule=(RETRY_S,))
    expected = _retried(error=AttemptError.CONNECT_TIMEOUT, backs_off=True)
    assert await _attempted(outpost, endpoint, connect_timeout=timedelta(milliseconds=200)) == expected


async def test_a_tls_failure_is_retried(outpost: Outpost, receiver: Receiver) -> None:
    url = receiver.url("/hook").replace("http:", "https:")
    endpoint = await outpost.endpoint(url, retry_schedule=(RETRY_S,))
    assert await _attempted(outpost, endpoint) == _retried(error=AttemptError.TLS)


async def test_a_name_that_does_not_resolve_is_retried(outpost: Outpost) -> None:
    endpoint = await outpost.endpoint("http://receiver.invalid/hook", retry_schedule=(RETRY_S,))
    assert await _attempted(outpost, endpoint) == _retried(error=AttemptError.DNS)


async def test_an_address_that_the_guard_refuses_is_the_deliverys_death_and_nothing_is_sent(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(RETRY_S,))
    seen = await _attempted(outpost, endpoint, allow_networks=())
    assert seen == Consequence(DeliveryState.DEAD, Reason.BLOCKED, AttemptError.BLOCKED)
    assert not receiver.received()


async def test_the_last_failure_of_the_schedule_is_the_deliverys_death(outpost: Outpost, receiver: Receiver) -> None:
    schedule: Sequence[float] = (5.0, 60.0)
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=tuple(schedule))
    receiver.answers("/hook", 500, 301, 403)
    await outpost.publish()
    clock = outpost.clock
    assert isinstance(clock, FakeClock)
    async with outpost.dispatcher() as dispatcher:
        for delay_s in schedule:
            await dispatcher.until_idle()
            assert (await outpost.delivery()).due_at == clock.now() + timedelta(seconds=delay_s)
            clock.advance(delay_s)
        await dispatcher.until_idle()
    row = await outpost.delivery()
    assert (row.state, row.reason, row.last_status) == (DeliveryState.DEAD, Reason.EXHAUSTED, 403)
    assert (await outpost.endpoint_now(endpoint)).status == EndpointStatus.ENABLED
    assert [attempt.status for attempt in await outpost.attempts()] == [500, 301, 403]


async def test_an_answer_that_takes_longer_than_the_endpoints_timeout_is_a_timeout(
    outpost: Outpost, receiver: Receiver
) -> None:
    too_late = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await too_late.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(RETRY_S,), timeout_s=0.2)
    seen = await _attempted(outpost, endpoint)
    too_late.set()
    assert seen == _retried(error=AttemptError.TIMEOUT, backs_off=True)
