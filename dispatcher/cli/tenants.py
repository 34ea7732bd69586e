"""`dispatcher tenants`: what holds for all of a tenant's endpoints."""

from typing import Annotated, Any

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples, given, nullable, requested
from dispatcher.cli.reading import read_count, read_number, read_size, read_switch

app = typer.Typer(
    no_args_is_help=True,
    help="Tenants: the default secret and the quota.",
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


@app.command(epilog=examples("dispatcher tenants show acme"))
def show(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Which one.", show_default=False)],
    as_json: options.AsJson = False,
) -> None:
    """Show what a tenant may use through the API and must prove, and how many endpoints it has."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import quotas

    ask(lambda deployment: quotas.show(deployment, tenant), as_json)


@app.command(
    "set-quota",
    epilog=examples(
        "dispatcher tenants set-quota acme --max-endpoints 100 --events-per-s 50 --max-payload 64KiB",
        "dispatcher tenants set-quota acme --events-per-s null",
        "dispatcher tenants set-quota acme --verify-endpoints true",
    ),
)
def set_quota(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whom it holds.", show_default=False)],
    max_endpoints: Annotated[
        Any,
        nullable(
            "--max-endpoints",
            read_count,
            metavar="COUNT",
            help="Endpoints at once, callbacks among them; `null`: by the settings.",
        ),
    ] = None,
    events_per_s: Annotated[
        Any,
        nullable(
            "--events-per-s",
            read_number,
            metavar="RATE",
            help="Events per second through one process of the API; `null`: by the settings.",
        ),
    ] = None,
    max_payload: Annotated[
        Any,
        nullable(
            "--max-payload", read_size, metavar="SIZE", help="The largest `data`, like 64KiB; `null`: by the settings."
        ),
    ] = None,
    verify_endpoints: Annotated[
        Any,
        nullable(
            "--verify-endpoints",
            read_switch,
            metavar="true|false|null",
            help="Whether endpoints are sent nothing until they have answered a challenge, callbacks too, whoever"
            " registers them; `null`: by the settings.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Set what a tenant may use through the API, and must prove; what is not given stays as it is."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import quotas
    from dispatcher.service.models import TenantQuotaUpdate

    body = TenantQuotaUpdate.read(
        requested(
            max_endpoints=max_endpoints,
            events_per_s=events_per_s,
            max_payload=max_payload,
            verify_endpoints=verify_endpoints,
        )
    )
    ask(lambda deployment: quotas.update(deployment, tenant, body), as_json)
