"""`dispatcher endpoints`: callback URLs, from their registration to their end."""

from typing import Annotated, Unpack

import typer

from dispatcher.cli import options
from dispatcher.cli.endpoint_fields import EndpointFields, Secret, Url, as_request
from dispatcher.cli.failures import note
from dispatcher.cli.option_groups import taking
from dispatcher.cli.options import examples, given
from dispatcher.states import EndpointStatus

app = typer.Typer(
    no_args_is_help=True,
    help="Callback URLs: register, change, pause, test, catch up.",
    epilog=examples("dispatcher endpoints create https://example.com/hook --event-types 'job.*'"),
)

Id = Annotated[str, typer.Argument(metavar="EP_ID", help="The endpoint's id.", show_default=False)]


@app.command(
    epilog=examples(
        "dispatcher endpoints create https://example.com/hook --event-types 'job.*' --secret s3cret-text --json",
        "dispatcher endpoints create https://example.com/hook --headers 'X-Team: ai' --retry-schedule '5s,5m,2h'",
        "dispatcher endpoints create https://example.com/hook --client-certificate @client.pem --client-key @key.pem",
    )
)
@taking(EndpointFields)
def create(
    url: Url,
    secret: Secret = None,
    tenant: options.Owner = None,
    job_id: Annotated[str | None, typer.Option("--job-id", help="Bind it to this job: a job's own callback.")] = None,
    expires_in_s: Annotated[
        float | None,
        typer.Option("--expires-in-s", metavar="SECONDS", help="With --job-id: matches nothing after that."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key and fields again: the same endpoint.")
    ] = None,
    as_json: options.AsJson = False,
    **fields: Unpack[EndpointFields],
) -> None:
    """Register a callback URL; its secret is shown this once."""
    from dispatcher.cli.printing import print_answer, print_with_secret
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints
    from dispatcher.service.models import CallbackCreate, EndpointCreate

    sent = as_request(fields) | given(url=url, secret=secret, tenant=tenant)
    owner = tenant or "default"
    if job_id is None:
        if expires_in_s is not None:
            raise typer.BadParameter("is for a job's callback: add --job-id", param_hint="--expires-in-s")
        body = EndpointCreate.read(sent)
        made, is_new = on_deployment(
            lambda deployment: endpoints.create(deployment, body, tenant=owner, idempotency_key=idempotency_key)
        )
    else:
        if idempotency_key is not None:
            raise typer.BadParameter(
                "is not for a job's callback: the same job and URL is the same callback anyway",
                param_hint="--idempotency-key",
            )
        callback = CallbackCreate.read(sent | given(expires_in_s=expires_in_s))
        made, is_new = on_deployment(
            lambda deployment: endpoints.create_callback(deployment, job_id, callback, tenant=owner)
        )
    print_answer(made, as_json, lambda: print_with_secret(made))
    if is_new and made.status == EndpointStatus.PAUSED:
        note(
            "Nothing is sent to it before its receiver has repeated a challenge. A running dispatcher sends it one;"
            f" so does: dispatcher endpoints verify {made.id}"
        )


@app.command("list", epilog=examples("dispatcher endpoints list --status disabled --json"))
def list_(
    status: Annotated[EndpointStatus | None, typer.Option("--status", help="Only with this status.")] = None,
    job_id: options.JobId = None,
    tenant: options.Tenant = None,
    limit: options.Limit = 50,
    cursor: options.Cursor = None,
    as_json: options.AsJson = False,
) -> None:
    """List endpoints, newest first."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints

    page = on_deployment(
        lambda deployment: endpoints.list_page(
            deployment, tenant=tenant, limit=limit, cursor=cursor, job_id=job_id, status=status
        )
    )
    columns = (
        ("ID", lambda endpoint: endpoint.id),
        ("TENANT", lambda endpoint: endpoint.tenant),
        ("STATUS", lambda endpoint: endpoint.status),
        ("REASON", lambda endpoint: endpoint.disabled_reason),
        ("EVENT TYPES", lambda endpoint: endpoint.event_types),
        ("URL", lambda endpoint: endpoint.url),
        ("CREATED", lambda endpoint: endpoint.created_at),
    )
    print_page(page, as_json, columns, "No endpoints yet: dispatcher endpoints create URL")


@app.command(epilog=examples("dispatcher endpoints show ep_0123456789abc"))
def show(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Show one endpoint; its secrets stay secret."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import endpoints

    ask(lambda deployment: endpoints.get(deployment, endpoint_id, tenant=tenant), as_json)


@app.command(
    epilog=examples(
        "dispatcher endpoints update ep_0123456789abc --max-in-flight 10 --timeout-s 5",
        "dispatcher endpoints update ep_0123456789abc --retry-schedule null",
    )
)
@taking(EndpointFields)
def update(
    endpoint_id: Id,
    url: Annotated[str | None, typer.Option("--url", help="Where deliveries are POSTed to from now on.")] = None,
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
    **fields: Unpack[EndpointFields],
) -> None:
    """Change the fields that are given; `null` takes a value away, `***` leaves a header's value as it is."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import endpoints
    from dispatcher.service.models import EndpointUpdate

    changed = as_request(fields) | given(url=url)
    if not changed:
        raise typer.BadParameter("give at least one field to change, like --timeout-s 5")
    body = EndpointUpdate.read(changed)
    ask(lambda deployment: endpoints.update(deployment, endpoint_id, body, tenant=tenant), as_json)


@app.command(epilog=examples("dispatcher endpoints delete ep_0123456789abc --yes"))
def delete(
    endpoint_id: Id, tenant: options.Tenant = None, yes: options.Yes = False, as_json: options.AsJson = False
) -> None:
    """Delete an endpoint and its secrets; what waits for it ends cancelled."""
    from dispatcher.cli.confirmation import confirm
    from dispatcher.cli.failures import note
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints

    confirm(yes, f"Delete {endpoint_id} and cancel what waits for it?")
    on_deployment(lambda deployment: endpoints.delete(deployment, endpoint_id, tenant=tenant))
    if not as_json:
        note(f"{endpoint_id} is deleted.")
