"""`dispatcher endpoints`: what an endpoint's deliveries are signed with."""

from typing import Annotated

import typer

from dispatcher.cli import options
from dispatcher.cli.endpoints import Id
from dispatcher.cli.options import examples, given

app = typer.Typer()


@app.command(
    "rotate-secret",
    epilog=examples(
        "dispatcher endpoints rotate-secret ep_0123456789abc",
        "dispatcher endpoints rotate-secret ep_0123456789abc --secret n3w-s3cret --overlap-s 0",
        "dispatcher endpoints rotate-secret ep_0123456789abc --stage",
    ),
)
def rotate_secret(
    endpoint_id: Id,
    secret: Annotated[
        str | None, typer.Option("--secret", help="The new secret (default: one is made and shown).")
    ] = None,
    overlap_s: Annotated[
        float | None, typer.Option("--overlap-s", metavar="SECONDS", help="How long both sign (default: 86400).")
    ] = None,
    stage: Annotated[
        bool, typer.Option("--stage/--no-stage", help="Only show it; it signs once `activate-secret` has tried it.")
    ] = False,
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
) -> None:
    """Give it a new secret, shown this once; both sign during the overlap."""
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import print_answer, print_with_secret
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints
    from dispatcher.service.models import RotateSecret

    body = RotateSecret.read(given(secret=secret, overlap_s=overlap_s, stage=stage or None))
    rotated = on_deployment(lambda deployment: endpoints.rotate_secret(deployment, endpoint_id, body, tenant=tenant))
    print_answer(rotated, as_json, lambda: print_with_secret(rotated))
    if stage and not as_json:
        note(f"It signs nothing yet. Once its receiver has it: dispatcher endpoints activate-secret {endpoint_id}")


@app.command(
    "activate-secret",
    epilog=examples(
        "dispatcher endpoints activate-secret ep_0123456789abc",
        "dispatcher endpoints activate-secret ep_0123456789abc --force",
    ),
)
def activate_secret(
    endpoint_id: Id,
    force: Annotated[
        bool, typer.Option("--force/--no-force", help="Whatever its receiver says: no test event is sent.")
    ] = False,
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
) -> None:
    """Let a staged secret sign, once its receiver has taken a test event signed with it alone."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import endpoints
    from dispatcher.service.models import ActivateSecret

    body = ActivateSecret(force=force)
    ask(lambda deployment: endpoints.activate_secret(deployment, endpoint_id, body, tenant=tenant), as_json)


@app.command("public-keys", epilog=examples("dispatcher endpoints public-keys ep_0123456789abc"))
def list_public_keys(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """List the public keys that verify its v1a signatures, the newest first."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import public_keys

    page = on_deployment(lambda deployment: public_keys.of_endpoint(deployment, endpoint_id, tenant=tenant))
    columns = (
        ("ID", lambda key: key.id),
        ("PUBLIC KEY", lambda key: key.public_key),
        ("STAGED", lambda key: key.staged),
        ("RETIRES", lambda key: key.retires_at),
    )
    none = f"None: dispatcher endpoints update {endpoint_id} --signatures v1 --signatures v1a"
    print_page(page, as_json, columns, none)
