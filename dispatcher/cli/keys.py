"""`dispatcher keys`: API keys, of a tenant or of none, and the key that encrypts secrets at rest."""

from datetime import datetime
from typing import Annotated

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples, given
from dispatcher.cli.reading import read_time
from dispatcher.states import Scope

app = typer.Typer(
    no_args_is_help=True,
    help="API keys: create, list, revoke. And the key that encrypts secrets at rest: rotate-encryption.",
    epilog=examples("dispatcher keys create --tenant acme"),
)


@app.command(
    epilog=examples(
        "dispatcher keys create --tenant acme",
        "dispatcher keys create --tenant acme --scopes publish --scopes read --expires-in-s 2592000 --json",
        "dispatcher keys create --scopes admin",
    )
)
def create(
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", help="Whose things the key sees; without one: every tenant's.", show_default="every tenant's"
        ),
    ] = None,
    scopes: Annotated[
        list[Scope] | None,
        typer.Option(
            "--scopes", help="What it may do; repeat it for several.", show_default="all that a tenant's key can have"
        ),
    ] = None,
    expires_at: Annotated[
        datetime | None,
        typer.Option("--expires-at", parser=read_time, metavar="TIME", help="Until when it holds, RFC 3339."),
    ] = None,
    expires_in_s: Annotated[
        float | None, typer.Option("--expires-in-s", metavar="SECONDS", help="For how long it holds.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make an API key; it is shown this once, and kept as a digest only."""
    from dispatcher.cli.printing import print_answer, print_attributes, print_secret
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import keys
    from dispatcher.service.models import KeyCreate

    if tenant is None and not scopes:
        raise typer.BadParameter(
            "name the tenant, or with --scopes what a key may do that sees every tenant", param_hint="--tenant"
        )
    body = KeyCreate.read(given(tenant=tenant, scopes=scopes or None, expires_at=expires_at, expires_in_s=expires_in_s))
    made = on_deployment(lambda deployment: keys.create(deployment, body))

    def shown() -> None:
        print_attributes(made, without=("key", "last_used_at", "revoked_at"))
        print_secret("key", made.key)

    print_answer(made, as_json, shown)


@app.command("list", epilog=examples("dispatcher keys list --tenant acme"))
def list_(
    tenant: options.Tenant = None,
    limit: options.Limit = 50,
    cursor: options.Cursor = None,
    as_json: options.AsJson = False,
) -> None:
    """List keys, newest first; the keys themselves are not kept."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import keys

    page = on_deployment(lambda deployment: keys.list_page(deployment, tenant=tenant, limit=limit, cursor=cursor))
    columns = (
        ("ID", lambda key: key.id),
        ("TENANT", lambda key: key.tenant if key.tenant is not None else "(every tenant)"),
        ("SCOPES", lambda key: key.scopes),
        ("BEGINS", lambda key: f"{key.hint}…"),
        ("CREATED", lambda key: key.created_at),
        ("EXPIRES", lambda key: key.expires_at),
        ("LAST USED", lambda key: key.last_used_at),
        ("REVOKED", lambda key: key.revoked_at),
    )
    print_page(page, as_json, columns, "No keys: dispatcher keys create --tenant NAME")


@app.command(epilog=examples("dispatcher keys revoke key_0123456789abc"))
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id.", show_default=False)],
    as_json: options.AsJson = False,
) -> None:
    """Revoke a key: when this command has ended, every process refuses it."""
    from dispatcher.cli.failures import note
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import keys

    on_deployment(lambda deployment: keys.revoke(deployment, key_id))
    if not as_json:
        note(f"{key_id} is revoked.")


@app.command(
    "rotate-encryption",
    epilog=examples("dispatcher keys rotate-encryption", "dispatcher keys rotate-encryption --json"),
)
def rotate_encryption(as_json: options.AsJson = False) -> None:
    """Bring everything encrypted under the first key of DISPATCHER_SECRET_KEY, while all goes on.

    Ended in the middle, it goes on where it was when it is run again. Exit code 1 while values remain under others.
    """
    from dispatcher.cli.encryption import rotate_and_print

    raise typer.Exit(rotate_and_print(as_json=as_json))
