"""The PostgreSQL that the tests bring."""

import os
import select
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.postgres_server import OwnPostgres, own_postgres

_ROOT = Path(__file__).resolve().parent.parent


def _query(url: str, statement: str) -> str:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_it_has_room_for_many_connections_and_keeps_its_promises_on_disk(stoppable_postgres: OwnPostgres) -> None:
    assert int(_query(stoppable_postgres.url, "SHOW max_connections")) >= 200
    assert _query(stoppable_postgres.url, "SHOW fsync") == "on"
    assert _query(stoppable_postgres.url, "SHOW synchronous_commit") == "on"


def test_one_that_is_not_durable_waits_for_no_disk_and_keeps_what_was_committed_when_it_is_killed() -> None:
    with own_postgres(durable=False) as server:
        assert _query(server.url, "SHOW fsync") == "off"
        assert _query(server.url, "SHOW synchronous_commit") == "on"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            server.kill()
        server.start()
        assert _query(server.url, "SELECT answer FROM kept") == "42"


def test_it_comes_back_on_the_same_port_with_what_was_committed(stoppable_postgres: OwnPostgres) -> None:
    with psycopg.connect(stoppable_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        stoppable_postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        _query(stoppable_postgres.url, "SELECT 1")
    stoppable_postgres.start()
    assert _query(stoppable_postgres.url, "SELECT answer FROM kept") == "42"


def test_it_comes_back_after_a_kill_too(stoppable_postgres: OwnPostgres) -> None:
    with psycopg.connect(stoppable_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        stoppable_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    stoppable_postgres.start()
    assert _query(stoppable_postgres.url, "SELECT answer FROM kept") == "42"


def test_two_servers_live_side_by_side() -> None:
    with own_postgres() as first, own_postgres() as second:
        assert first.url != second.url
        assert _query(first.url, "SELECT 1") == _query(second.url, "SELECT 1") == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a process that is not its child: pidfd_open")
def test_killing_the_tests_leaves_neither_server_nor_files() -> None:
    holder = """if True:
        import psycopg
        from tests.postgres_server import own_postgres
        with own_postgres() as server:
            with psycopg.connect(server.url) as connection:
                print(connection.execute("SHOW data_directory").fetchone()[0])
            print(server.url)
            print(server._keeper.pid, flush=True)
            input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        data = Path(tests.stdout.readline().strip())
        url = tests.stdout.readline().strip()
        keeper = os.pidfd_open(int(tests.stdout.readline()))
        tests.kill()
        try:
            assert select.select([keeper], [], [], 20)[0], "20 s after the tests were killed their server still runs"
        finally:
            os.close(keeper)
    assert not data.parent.exists()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        _query(url, "SELECT 1")
