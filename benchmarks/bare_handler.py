"""The yardstick of the hand-over: a bare aiohttp handler on uvloop that commits the row, answers, and POSTs it.

No key, no check, no endpoint, no fan-out, no claim, no record; one INSERT of the same bytes in its own durable commit.
`python -m benchmarks.bare_handler DATABASE_URL RECEIVER_URL` prints its URL and serves until standard input ends.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import asyncpg
import msgspec
import uvloop
from aiohttp import web
from sqlalchemy.engine import make_url

from benchmarks.bare_posts import BarePosts

_TABLE = "CREATE TABLE bare (id text PRIMARY KEY, type text NOT NULL, data text NOT NULL)"
Commit = Callable[[str, str, str], Awaitable[object]]


async def _postgres(url: str) -> Commit:
    pool = await asyncpg.create_pool(url, min_size=8, max_size=8)
    await pool.execute(_TABLE)
    return lambda *row: pool.execute("INSERT INTO bare VALUES ($1, $2, $3)", *row)


async def _sqlite(file: str) -> Commit:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_TABLE)
    thread, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()
    insert = "INSERT INTO bare VALUES (?, ?, ?)"
    return lambda *row: loop.run_in_executor(thread, connection.execute, insert, row)


async def serve(database_url: str, receiver: str) -> None:
    """Prints its URL and serves until standard input ends."""
    url = make_url(database_url)
    commit = await (_sqlite(url.database or "") if url.drivername.startswith("sqlite") else _postgres(database_url))

    async with aiohttp.ClientSession() as session:
        posts = BarePosts(session, receiver)

        async def handle(request: web.Request) -> web.Response:
            body = await request.read()
            event = msgspec.json.decode(body)
            await commit(event["id"], event["type"], msgspec.json.encode(event["data"]).decode())
            posts.begin(event["id"], body)
            return web.Response(status=202)

        app = web.Application()
        app.router.add_post("/v1/events", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
