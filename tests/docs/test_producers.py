"""docs/producers.md, run: Python and shell on SQLite, SQL on both databases, the grants by a role with no more."""

import re
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, make_url, text
from sqlalchemy.engine import URL

from dispatcher import register_callback
from dispatcher.outbox.callbacks import producer_keyring
from dispatcher.outbox.publish import producer_settings
from tests.deployed import SECRET_KEY
from tests.docs.pages import ROOT, blocks
from tests.docs.python_blocks import python_of
from tests.docs.shell import Shell

_PAGE = ROOT / "docs" / "producers.md"


async def test_the_python_and_shell_of_the_producers_guide_publish_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "sqlite:///shop.db")
    shell = Shell(tmp_path)
    first, *later = blocks(_PAGE, "sh")
    await shell.run(first)
    async with python_of(_PAGE) as names:
        assert names["event_id"].startswith("evt_")
        assert names["callback"].secret.startswith("whsec_")
        for block in later:
            await shell.run(block)
        with closing(sqlite3.connect("shop.db")) as database:
            types = [row[0] for row in database.execute("SELECT type FROM events ORDER BY row_id")]
            [(url,)] = database.execute("SELECT url_shown FROM endpoints WHERE job_id = 'order-1'")
    packing = ["started", "packing", "packing", "packing", "delivered"]
    what = ["paid", "shipped", *packing, "packed", "sent", "archived", "refunded", "paid", "paid"]
    assert types == [f"order.{one}" for one in what]
    assert url == "https://example.com/hooks/order-1?token=***"


async def test_the_line_for_alembic_keeps_autogenerate_off_our_tables(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = [block for block in blocks(_PAGE, "python") if "def include_name" in block.text]
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", database_url)
    names: dict[str, object] = {}
    exec(block.text, names)
    engine = create_engine(_synchronous(database_url))
    try:
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
            kept = MigrationContext.configure(connection, opts={"include_name": names["include_name"]})
            everything = MigrationContext.configure(connection)
            assert len(compare_metadata(everything, MetaData())) > 10
            [(what, table)] = [step for step in compare_metadata(kept, MetaData()) if isinstance(step, tuple)]
            assert (what, table.name) == ("remove_table", "orders")
    finally:
        engine.dispose()


@pytest.mark.parametrize("page", [ROOT / "README.md", _PAGE], ids=lambda page: str(page.name))
def test_plain_sql_publishes_on_both_databases(page: Path, database_url: str) -> None:
    statements = [line for block in blocks(page, "sql") for line in block.text.strip().splitlines()]
    assert statements
    engine = create_engine(_synchronous(database_url))
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement.replace(":", r"\:")))
            ids = connection.execute(text("SELECT id FROM events")).scalars().all()
            [queued] = connection.execute(text("SELECT count(*) FROM fanout_queue")).scalars()
    finally:
        engine.dispose()
    assert len(ids) == queued == len(statements)
    assert all(re.fullmatch("evt_[0-9a-f]{32}", event_id) for event_id in ids)


def test_the_grants_are_all_that_a_producer_needs(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", postgres_url)
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", SECRET_KEY)
    producer_settings.cache_clear()
    producer_keyring.cache_clear()
    # Roles belong to the whole server, which other runs may share.
    role = f"shop_app_{secrets.token_hex(4)}"
    insert, publishing, registering = (block.text.replace("shop_app", role) for block in blocks(_PAGE, "postgresql"))
    engine = create_engine(_synchronous(postgres_url))
    plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, autocommit=True) as owner:
            _execute(owner, publishing)
            owner.execute(f"SET ROLE {role}".encode())
            assert owner.execute(insert.encode()).fetchall()[0][0].startswith("evt_")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute("SELECT count(*) FROM deliveries")
            owner.execute("RESET ROLE")
            _execute(owner, registering)
            with engine.begin() as connection:
                connection.execute(text(f"SET LOCAL ROLE {role}"))
                made = register_callback(connection, job_id="order-1", url="https://example.com/hooks")
                assert (
                    made.secret
                    == register_callback(connection, job_id="order-1", url="https://example.com/hooks").secret
                )
    finally:
        engine.dispose()
        with psycopg.connect(plain, autocommit=True) as owner:
            owner.execute(f"DROP OWNED BY {role}".encode())
            owner.execute(f"DROP ROLE {role}".encode())
        producer_settings.cache_clear()
        producer_keyring.cache_clear()


def _execute(connection: psycopg.Connection[tuple[object, ...]], statements: str) -> None:
    for statement in filter(str.strip, statements.split(";")):
        connection.execute(statement.encode())


def _synchronous(database_url: str) -> URL:
    url = make_url(database_url)
    return url.set(drivername="sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg")
