"""A start on a database where a million rows wait: its first delivery comes within seconds, whatever waits."""

import asyncio
import os
import signal

import pytest
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.clock import SystemClock
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.store.signing_secrets import OWN
from tests.chaos.worker import Worker
from tests.outpost import SECRET_KEY, Outpost, Registered
from tests.receiver import Receiver

ROWS = int(os.environ.get("CHAOS_ROWS", "1000000"))
ENDPOINTS = 1000
#: What a start took on the machine of docs/reliability.md is a tenth of it.
PATIENCE_S = 60.0

SETTINGS = {
    "secret_key": SECRET_KEY,
    "allow_http": "true",
    "allow_networks": "127.0.0.0/8",
    "log_format": "json",
    "log_level": "warning",
    "shutdown_grace": "5s",
}

#: What waits, and the columns of a delivery that say so; null: it is an event in the queue.
BACKLOGS = {
    "can be sent now": {"waiting": "false", "due_at": "NULL", "lane": "NULL"},
    "overdue": {"waiting": "false", "due_at": "{past}", "lane": "NULL"},
    "due in the future": {"waiting": "false", "due_at": "{future}", "lane": "NULL"},
    "behind the heads of lanes": {"waiting": "n % 1000 <> 0", "due_at": "NULL", "lane": "1 + n / 1000"},
    "left in flight by a dispatcher that died": {"waiting": "false", "due_at": "NULL", "lane": "NULL"},
    "events not fanned out": None,
}


async def _seal_copies(connection: AsyncConnection, outpost: Outpost, one: Registered, url: str) -> None:
    """What is sealed is bound to its row: each copy has its own."""
    ring, endpoints, secrets = outpost.deployment.keyring, outpost.tables.endpoints, outpost.tables.endpoint_secrets
    copies = [number + (1 << 40) for number in range(ENDPOINTS)]
    keys = SigningKeys.beside(Secret(one.secret)).text
    await connection.execute(
        endpoints.update().where(endpoints.c.row_id == bindparam("of_row")).values(url_sealed=bindparam("sealed_url")),
        [{"of_row": row, "sealed_url": ring.seal(url, "url", row)} for row in copies],
    )
    await connection.execute(
        secrets.update().where(secrets.c.endpoint_row == bindparam("of_row")).values(sealed=bindparam("sealed_keys")),
        [{"of_row": row, "sealed_keys": ring.seal(keys, OWN, row)} for row in copies],
    )


async def _fill(outpost: Outpost, receiver: Receiver, backlog: str) -> None:
    """So many rows in few statements, as a restore or an import leaves them: no statistics."""
    one = await outpost.endpoint(receiver.url("/hook"), ordered=False)
    postgresql = outpost.database.dialect == "postgresql"
    now = "clock_timestamp()" if postgresql else "CAST(strftime('%s', 'now') AS INTEGER) * 1000000"
    hour = "interval '1 hour'" if postgresql else "3600000000"
    times = {"past": f"{now} - {hour}", "future": f"{now} + {hour}"}

    def numbers(count: int) -> str:
        if postgresql:
            return f"generate_series(0, {count - 1}) AS numbers(n)"
        return (
            f"(WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - 1})"
            " SELECT n FROM numbers) AS numbers"
        )

    async with outpost.database.begin(limited=False) as connection:

        async def run(statement: str) -> None:
            await connection.execute(text(statement))

        # Of no job: else fan-out would make a thousand deliveries of each event.
        matching = "job.none" if backlog == "events not fanned out" else "*"
        for table, key in (("endpoints", "row_id"), ("endpoint_state", "endpoint_row"), ("endpoint_secrets", "")):
            columns = [column.name for column in outpost.tables.metadata.tables[table].columns]
            if table == "endpoint_secrets":
                columns.remove("row_id")
                key = "endpoint_row"
            values = ", ".join(f"n + {1 << 40}" if column == key else column for column in columns)
            await run(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} CROSS JOIN"
                f" {numbers(ENDPOINTS)} WHERE {key} = {one.row}"
            )
        await _seal_copies(connection, outpost, one, receiver.url("/hook"))
        await run(
            "INSERT INTO subscriptions (tenant, pattern, job_id, endpoint_row)"
            f" SELECT 'default', '{matching}', '', n + {1 << 40} FROM {numbers(ENDPOINTS)}"
        )
        await run(f"INSERT INTO events (type, data, job_id) SELECT 'job.step', '{{}}', NULL FROM {numbers(ROWS)}")
        columns_of = BACKLOGS[backlog]
        if columns_of is None:
            return
        await run("DELETE FROM fanout_queue")
        lost = backlog.startswith("left in flight")
        waits = {name: value.format(**times) for name, value in columns_of.items()} | {
            "state": "'sending'" if lost else "'pending'",
            "attempts": "1" if lost else "0",
            "dispatcher_row": "999" if lost else "NULL",
            "sequence": "1 + n % 1000",
        }
        # A lane is all of a job's at one endpoint.
        place = "n" if waits["lane"] == "NULL" else "n / 1000"
        await run(
            f"INSERT INTO deliveries (event_row, endpoint_row, tenant, {', '.join(waits)})"
            f" SELECT n + 1, {1 << 40} + {place} % {ENDPOINTS}, 'default', {', '.join(waits.values())}"
            f" FROM {numbers(ROWS)}"
        )


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backlog", BACKLOGS)
async def test_the_first_delivery_comes_within_seconds_of_a_start(
    database_url: str, receiver: Receiver, backlog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The lease says how long the server lets a transaction last, and filling takes its time.
    outpost, loop = Outpost(database_url, SystemClock(), lease="600s"), asyncio.get_running_loop()
    try:
        await _fill(outpost, receiver, backlog)
        if backlog == "due in the future":
            # What is sent is what comes after them.
            await outpost.publish("job.done")
        started_s = loop.time()
        worker = await Worker.start({**SETTINGS, "database_url": database_url})
        try:
            [first, *_] = await receiver.wait_for(1, patience_s=PATIENCE_S)
            [*_, hundredth] = await receiver.wait_for(100, patience_s=PATIENCE_S)
        finally:
            code = await worker.end(signal.SIGTERM)
        with capsys.disabled():
            took = f"first {first.arrived_s - started_s:.1f} s, hundredth {hundredth.arrived_s - started_s:.1f} s"
            print(f"\n{outpost.database.dialect}, {ROWS} {backlog}: {took} after the start")
        assert code == 0
        assert worker.faults == []
        assert len([row for row in await outpost.attempts() if row.status == 200]) >= 100
    finally:
        await outpost.close()
