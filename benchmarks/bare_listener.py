"""The yardstick of latency on PostgreSQL: a bare chain of `LISTEN`, `SELECT` and POST, on uvloop, that writes nothing.

No endpoint, no queue, no fan-out, no claim, no record; each row is signed and sent once it is seen.
`python -m benchmarks.bare_listener DATABASE_URL RECEIVER_URL` makes the table, prints a line once it listens, and goes
on until standard input ends.
"""

import asyncio
import sys

import aiohttp
import asyncpg
import uvloop

from benchmarks.bare_posts import BarePosts

#: A producer's transaction is `INSERT` and `NOTIFY`.
INSERT = "INSERT INTO bare (id, data) VALUES ($1, $2)"
NOTIFY = "NOTIFY bare"
_TABLE = "CREATE TABLE bare (row_id bigserial PRIMARY KEY, id text NOT NULL, data text NOT NULL)"
#: Rows may become visible in another order than they were numbered.
_BACK = 100


async def listen(database_url: str, receiver: str) -> None:
    """Sends what is committed, until standard input ends."""
    listening = await asyncpg.connect(database_url)
    selecting = await asyncpg.connect(database_url)
    await selecting.execute(_TABLE)
    seen: set[int] = set()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    async with aiohttp.ClientSession() as session:
        posts = BarePosts(session, receiver)

        async def send() -> None:
            last = 0
            while True:
                await told.wait()
                told.clear()
                found = await selecting.fetch("SELECT row_id, id, data FROM bare WHERE row_id > $1", last - _BACK)
                for row_id, event_id, data in found:
                    last = max(last, row_id)
                    if row_id not in seen:
                        seen.add(row_id)
                        posts.begin(event_id, data.encode())

        await listening.add_listener("bare", lambda *_: told.set())
        sending = loop.create_task(send())
        print("listening", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        sending.cancel()


if __name__ == "__main__":
    uvloop.run(listen(sys.argv[1], sys.argv[2]))
