"""`dispatcher keys`: API keys for tenants, and the key that encrypts secrets at rest."""

from typing import Annotated

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples, given

app = typer.Typer(
    no_args_is_help=True,
    help="API keys for tenants: create, list, revoke. And the key that encrypts secrets at rest: rotate-encryption.",
    epilog=examples("dispatcher keys create --tenant acme"),
)


@app.command(epilog=examples("dispatcher keys create --tenant acme", "dispatcher keys create --tenant acme --json"))
def create(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose things the key sees.", show_default=False)],
    scopes: Annotated[
        list[str] | None, typer.Option("--scopes", help="What it may do.", show_default="tenant: all of its tenant")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make an API key; it is shown this once, and kept as a digest only."""
    from dispatcher.cli.printing import print_answer, print_attributes, print_secret
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import keys
    from dispatcher.service.models import KeyCreate

    body = KeyCreate.read(given(tenant=tenant, scopes=scopes or None))
    made = on_deployment(lambda deployment: keys.create(deployment, body))

    def shown() -> None:
        print_attributes(made, without=("key", "revoked_at"))
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
        ("TENANT", lambda key: key.tenant),
        ("BEGINS", lambda key: f"{key.hint}…"),
        ("CREATED", lambda key: key.created_at),
        ("REVOKED", lambda key: key.revoked_at),
    )
    print_page(page, as_json, columns, "No keys: dispatcher keys create --tenant NAME")


@app.command(epilog=examples("dispatcher keys revoke key_0123456789abc"))
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id.", show_default=False)],
    as_json: options.AsJson = False,
) -> None:
    """Revoke a key: its next request is refused, five seconds later at the latest."""
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
