"""The promises of the design, each with a test that fails without it (5, terminal last, comes with event kinds)."""

import asyncio
import io
import json
import random
import sqlite3
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256

import pytest
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dispatcher import logs, publish
from dispatcher.rules.secrets import Secret
from dispatcher.service import secret_rotation
from dispatcher.service.requests import RotateSecret
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason
from tests.bad_receiver import BadReceiver, Misbehaviour
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.process import process_as_before
from tests.receiver import Received, Receiver

ENDED = {DeliveryState.DELIVERED, DeliveryState.SUPERSEDED, DeliveryState.CANCELLED, DeliveryState.DEAD}


async def test_1_nothing_is_lost_whatever_receivers_and_restarts_do(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    dice = random.Random(1)
    receiver.answers("/moody", lambda _: web.Response(status=dice.choice([200, 200, 500, 503, 413])))
    receiver.answers("/fine", 200)
    receiver.answers("/leaves", *[200] * 7, 410)
    moody = await outpost.endpoint(receiver.url("/moody"), retry_schedule=(1.0, 2.0, 3.0))
    fine = await outpost.endpoint(receiver.url("/fine"))
    leaves = await outpost.endpoint(receiver.url("/leaves"))
    paused = await outpost.endpoint(receiver.url("/paused"))
    await outpost.change("endpoints", paused.row, status=EndpointStatus.PAUSED)
    for round_ in range(6):
        await outpost.publish("a", "b", job_id=f"job_{round_ % 2}")
        await outpost.publish("c")
        async with outpost.store(lease_s=0.001) as killed:
            await killed.fan_out(2)
            await killed.claim(2)
        clock.advance(1)
        async with outpost.dispatcher(shutdown_grace=timedelta(0)) as dispatcher:
            if round_ % 2:
                await dispatcher.until_idle()
    await outpost.change("endpoints", paused.row, status=EndpointStatus.ENABLED)
    async with outpost.dispatcher() as dispatcher:
        for _ in range(400):
            await dispatcher.until_idle()
            await dispatcher.run_duties()
            if {row.state for row in await outpost.deliveries()} <= ENDED:
                break
            clock.advance(10)
    rows = await outpost.deliveries()
    assert {row.state for row in rows} <= ENDED
    assert all(row.reason is not None for row in rows if row.state != DeliveryState.DELIVERED)
    per_endpoint = Counter(row.endpoint_row for row in rows)
    assert (per_endpoint[moody.row], per_endpoint[fine.row], per_endpoint[paused.row]) == (18, 18, 18)
    assert {row.state for row in rows if row.endpoint_row in (fine.row, paused.row)} == {DeliveryState.DELIVERED}
    gone = [row for row in rows if row.endpoint_row == leaves.row and row.state != DeliveryState.DELIVERED]
    assert {row.reason for row in gone} == {Reason.GONE}
    ids = {event.row_id: event.id for event in await outpost.rows("events")}
    arrived = {(request.path, request.headers["webhook-id"]) for request in receiver.received()}
    assert {("/fine", event_id) for event_id in ids.values()} <= arrived
    letters = {letter.delivery_row for letter in await outpost.letters()}
    assert letters == {row.row_id for row in rows if row.state == DeliveryState.DEAD}


async def test_2_what_was_rolled_back_is_never_sent(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    engine = outpost.database.engine
    committed = set()
    async with outpost.dispatcher() as dispatcher:
        for n in range(20):
            async with AsyncSession(engine) as session:
                event_id = publish(session, "job.step", n, job_id="job_1")
                await session.flush()
                dispatcher.wake()
                if n % 3:
                    await session.rollback()
                else:
                    await session.commit()
                    committed.add(event_id)
        await dispatcher.until_idle()
    assert {request.headers["webhook-id"] for request in receiver.received()} == committed
    assert [json.loads(request.body)["sequence"] for request in receiver.received()] == list(range(1, 8))


async def test_3_every_attempt_has_the_same_id_and_bytes_even_if_the_endpoint_changes(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(5.0, 5.0))
    receiver.answers("/hook", 500)
    await outpost.publish("job.step", job_id="job_1", data='{ "n": 1.50, "n": 1e400 }')
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        for profile in ("flat", "raw"):
            await outpost.change("endpoints", endpoint.row, profile=profile, version=5)
            clock.advance(5)
            await dispatcher.until_idle()
        await outpost.put_back(await outpost.delivery())
        await dispatcher.until_idle()
    requests = receiver.received()
    assert [request.headers["x-delivery-attempt"] for request in requests] == ["1", "2", "3", "4"]
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert len({sha256(request.body).digest() for request in requests}) == 1
    assert requests[0].body.endswith(b'"data":{"n":1.50,"n":1e400}}')


async def test_4_a_jobs_deliveries_go_in_order_and_one_at_a_time_while_the_rest_goes_on(
    outpost: Outpost, receiver: Receiver, bad_receiver: BadReceiver, clock: FakeClock
) -> None:
    dice = random.Random(4)
    in_flight: Counter[str] = Counter()
    most = Counter[str]()

    async def answer(request: Received) -> web.Response:
        job = json.loads(request.body)["job_id"]
        in_flight[job] += 1
        most[job] = max(most[job], in_flight[job])
        most["all"] = max(most["all"], in_flight.total())
        for _ in range(dice.randrange(30)):
            await asyncio.sleep(0)
        in_flight[job] -= 1
        return web.Response(status=dice.choice([200, 500]))

    receiver.answers("/hook", answer)
    await outpost.endpoint(receiver.url("/hook"), order_hold_s=None, retry_schedule=(1.0,) * 50)
    blocked = await outpost.endpoint(bad_receiver.url(Misbehaviour.HANG), timeout_s=60)
    for n in range(8):
        await outpost.publish(f"n{n}", job_id="one")
        await outpost.publish(f"n{n}", job_id="other")
    async with outpost.dispatcher(shutdown_grace=timedelta(0)) as dispatcher:
        async with asyncio.timeout(40):
            while True:
                rows = [row for row in await outpost.deliveries() if row.endpoint_row != blocked.row]
                if len(rows) == 16 and {row.state for row in rows} == {DeliveryState.DELIVERED}:
                    break
                clock.advance(1)
                dispatcher.wake()
                await asyncio.sleep(0)
    assert (most["one"], most["other"]) == (1, 1)
    assert most["all"] == 2
    for job in ("one", "other"):
        bodies = [json.loads(request.body) for request in receiver.received()]
        sequence = [body["sequence"] for body in bodies if body["job_id"] == job]
        assert sequence == sorted(sequence)
        assert set(sequence) == set(range(1, 9))


async def test_6_no_transaction_is_open_during_a_post(outpost: Outpost, receiver: Receiver) -> None:
    release = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await receiver.wait_for(1)
        if (file := outpost.database.url.file) is not None:

            def write_and_truncate_the_log() -> int:
                # Fails at once while anybody writes, and answers 1 while anybody reads.
                with sqlite3.connect(file, isolation_level=None, timeout=2) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
                    busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                connection.close()
                return busy

            assert await asyncio.to_thread(write_and_truncate_the_log) == 0
        else:
            open_transactions = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - interval '100 ms'"
            )
            async with outpost.database.read() as connection:
                assert (await connection.execute(text("SELECT pg_sleep(0.15)"))) is not None
            async with outpost.database.read() as connection:
                assert (await connection.execute(open_transactions)).scalar_one() == 0
        release.set()
        await dispatcher.until_idle()
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED


async def test_7_a_stop_claims_nothing_more_and_what_it_interrupts_costs_no_retry(
    outpost: Outpost, bad_receiver: BadReceiver
) -> None:
    await outpost.endpoint(bad_receiver.url(Misbehaviour.HANG), max_in_flight=1, retry_schedule=())
    await outpost.publish("a", "b")
    dispatcher = outpost.dispatcher(shutdown_grace=timedelta(milliseconds=20))
    await dispatcher.start()
    await bad_receiver.wait_for(1)
    await dispatcher.stop()
    assert bad_receiver.hits.total() == 1
    interrupted, untouched = await outpost.deliveries()
    assert (interrupted.state, interrupted.due_at, interrupted.failures) == (DeliveryState.PENDING, None, 0)
    assert (untouched.state, untouched.attempts) == (DeliveryState.PENDING, 0)
    assert [(row.number, row.error) for row in await outpost.attempts()] == [(1, AttemptError.INTERRUPTED)]


@pytest.fixture
def log() -> Iterator[io.BytesIO]:
    """Every line that is logged, at the most talkative level."""
    stream = io.BytesIO()
    with process_as_before():
        logs.configure("json", "debug", stream)
        yield stream


async def test_8_no_secret_is_stored_in_the_clear_or_logged(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, log: io.BytesIO
) -> None:
    secret = Secret.generate()
    url = receiver.url("/hook?token=T0KEN-IN-QUERY").replace("http://", "http://me:PASSW0RD-IN-URL@")
    endpoint = await outpost.endpoint(
        url, secret=secret.text, headers={"X-Api-Key": "HEADER-VALUE"}, retry_schedule=(5.0,)
    )
    receiver.answers("/hook", 401, 500)
    await outpost.publish("job.done", data='{"n": "BODY-TEXT"}')
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        rotated = await secret_rotation.rotate_secret(
            outpost.deployment, endpoint.id, RotateSecret.read({}), tenant=None
        )
        clock.advance(5)
        await dispatcher.until_idle()
    first, _ = receiver.received()
    assert first.headers["x-api-key"] == "HEADER-VALUE"
    assert first.query == "token=T0KEN-IN-QUERY"
    sent = [token for request in receiver.received() for token in request.headers["webhook-signature"].split(" ")]
    keys = [secret.text, rotated.secret, b64encode(secret.key).decode(), secret.key.hex()]
    confidential = [*keys, *sent, "T0KEN-IN-QUERY", "PASSW0RD-IN-URL", "HEADER-VALUE"]
    stored = []
    for table in outpost.tables.metadata.sorted_tables:
        async with outpost.database.read() as connection:
            stored += [repr(tuple(row)) for row in await connection.execute(table.select())]
    if outpost.database.url.file is not None:
        stored.append(outpost.database.url.file.read_bytes().decode("latin-1"))
    logged = log.getvalue().decode()
    assert logged.count("delivery.attempted") == 2
    for word in confidential:
        assert word not in "\n".join(stored), word
        assert word not in logged, word
    assert "BODY-TEXT" not in logged


async def test_9_no_connection_is_opened_to_a_forbidden_address_whatever_the_name_said_before(
    outpost: Outpost,
) -> None:
    connections = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await outpost.endpoint(f"http://localhost:{port}/")
        await outpost.endpoint(f"http://127.0.0.1:{port}/")
        await outpost.publish()
        async with outpost.dispatcher(allow_networks=()) as dispatcher:
            await dispatcher.until_idle()
    assert connections == []
    assert {(row.state, row.reason) for row in await outpost.deliveries()} == {(DeliveryState.DEAD, Reason.BLOCKED)}
