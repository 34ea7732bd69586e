"""`dispatcher migrate`: the schema brought up to date, or only looked at."""

import asyncio
import json

import typer
from sqlalchemy.exc import DBAPIError

from dispatcher.cli.failures import note
from dispatcher.cli.printing import print_json
from dispatcher.cli.session import check_file
from dispatcher.clock import SystemClock
from dispatcher.errors import StoreUnavailable
from dispatcher.settings import Settings, load
from dispatcher.store import migrate as migrations
from dispatcher.store.database import open_database
from dispatcher.store.urls import parse_database_url


def migrate(*, check: bool, as_json: bool) -> int:
    """Runs pending migrations, or only names them: then 1 when there are some. Raises `SchemaError`."""
    settings = load()
    file = parse_database_url(settings.database_url).file
    if check and file is not None and not file.exists():
        # Looking must not make the file.
        note(f"There is no database yet: {file.absolute()}; run: dispatcher migrate")
        return 1
    check_file(settings)
    named = asyncio.run(_migrate(settings, check=check))
    if as_json:
        print_json(json.dumps({"pending": named} if check else {"applied": named}))
    elif not named:
        typer.echo("The schema is up to date.")
    else:
        typer.echo("\n".join(f"{'pending' if check else 'applied'}: {migration}" for migration in named))
        if check:
            note("Run them with: dispatcher migrate")
    return 1 if check and named else 0


async def _migrate(settings: Settings, *, check: bool) -> list[str]:
    database = open_database(settings, SystemClock())
    try:
        named = await migrations.pending(database)
        if named and not check:
            await migrations.upgrade(database)
        return named
    except DBAPIError as error:
        raise StoreUnavailable(f"the database refuses: {error.orig}; nothing was changed") from error
    finally:
        await database.close()
