"""`dispatcher tenants`: what holds for all of a tenant's endpoints."""

from typing import Annotated

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples, given

app = typer.Typer(
    no_args_is_help=True,
    help="Tenants: set the default secret.",
    epilog=examples("dispatcher tenants set-secret acme"),
)


@app.command(
    "set-secret",
    epilog=examples(
        "dispatcher tenants set-secret acme",
        "dispatcher tenants set-secret acme --secret s3cret-text --overlap-s 3600 --json",
    ),
)
def set_secret(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose endpoints sign with it.", show_default=False)],
    secret: Annotated[str | None, typer.Option("--secret", help="The secret (default: one is made and shown).")] = None,
    overlap_s: Annotated[
        float | None,
        typer.Option("--overlap-s", metavar="SECONDS", help="How long the former one signs too (default: a day)."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Set or rotate a tenant's default secret, for endpoints and callbacks without one of their own."""
    from dispatcher.cli.printing import print_answer, print_secret
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import tenants
    from dispatcher.service.models import TenantSecretSet

    body = TenantSecretSet.read(given(secret=secret, overlap_s=overlap_s))
    made = on_deployment(lambda deployment: tenants.set_secret(deployment, tenant, body))
    print_answer(made, as_json, lambda: print_secret("secret", made.secret))
