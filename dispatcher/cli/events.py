"""`dispatcher events`: what happened, published and looked at."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples, given
from dispatcher.cli.reading import read_data, read_moment
from dispatcher.states import EventKind

if TYPE_CHECKING:
    from dispatcher.service.models import EventWithDeliveries

app = typer.Typer(
    no_args_is_help=True,
    help="Events: publish, list, see what became of one.",
    epilog=examples("dispatcher events list --type job.failed --since 2h"),
)


@app.command(
    epilog=examples(
        'dispatcher events publish job.completed --job-id job_1 --data \'{"status":"success"}\' --json',
        "dispatcher events publish job.completed --data @result.json",
        "my-tool --json | dispatcher events publish job.completed --data -",
    )
)
def publish(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Like job.completed.", show_default=False)],
    data: Annotated[str, typer.Option("--data", metavar="JSON", help="JSON; @FILE reads a file, - standard input.")],
    job_id: Annotated[str | None, typer.Option("--job-id", help="The job that it is about.")] = None,
    kind: Annotated[
        EventKind | None, typer.Option("--kind", help="What it says about its job (default: by its type).")
    ] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="An id of yours, unique per tenant.")] = None,
    timestamp: Annotated[
        datetime | None,
        typer.Option("--timestamp", parser=read_moment, metavar="TIME", help="When it happened (default: now)."),
    ] = None,
    traceparent: Annotated[str | None, typer.Option("--traceparent", help="W3C trace context to pass on.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key and content again: the same event.")
    ] = None,
    tenant: options.Owner = None,
    as_json: options.AsJson = False,
) -> None:
    """Publish an event; a dispatcher (`dispatcher serve`, `dispatcher work`) delivers it."""
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import print_answer, print_attributes
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import events
    from dispatcher.service.models import EventPublish

    body = EventPublish.read(
        given(
            type=event_type,
            data=read_data(data),
            job_id=job_id,
            kind=kind,
            id=event_id,
            timestamp=timestamp,
            traceparent=traceparent,
            idempotency_key=idempotency_key,
            tenant=tenant,
        )
    ).sent()
    accepted = on_deployment(lambda deployment: events.publish(deployment, body, tenant=tenant or "default"))
    print_answer(accepted, as_json, lambda: print_attributes(accepted, without=("warnings",)))
    for warning in accepted.warnings:
        note(f"Mind: {warning}")


@app.command("list", epilog=examples("dispatcher events list --type job.failed --since 2h"))
def list_(
    event_type: options.EventType = None,
    job_id: options.JobId = None,
    since: options.Since = None,
    until: options.Until = None,
    tenant: options.Tenant = None,
    limit: options.Limit = 50,
    cursor: options.Cursor = None,
    as_json: options.AsJson = False,
) -> None:
    """List events, newest first."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import events

    page = on_deployment(
        lambda deployment: events.list_page(
            deployment,
            tenant=tenant,
            limit=limit,
            cursor=cursor,
            type=event_type,
            job_id=job_id,
            since=since,
            until=until,
        )
    )
    columns = (
        ("ID", lambda event: event.id),
        ("TENANT", lambda event: event.tenant),
        ("TYPE", lambda event: event.type),
        ("JOB", lambda event: event.job_id),
        ("SEQUENCE", lambda event: event.sequence),
        ("CREATED", lambda event: event.created_at),
    )
    print_page(page, as_json, columns, "No events: dispatcher events publish TYPE --data JSON")


@app.command(epilog=examples("dispatcher events show evt_4f9c2d1ab0"))
def show(
    event_id: Annotated[str, typer.Argument(metavar="EVT_ID", help="The event's id.", show_default=False)],
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
) -> None:
    """Show an event, its data, and what became of it at each endpoint."""
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import events

    event = on_deployment(lambda deployment: events.get(deployment, event_id, tenant=tenant))
    print_answer(event, as_json, lambda: _show(event))


def _show(event: "EventWithDeliveries") -> None:
    from dispatcher.cli.deliveries import COLUMNS
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import pretty_json, print_attributes, print_table

    print_attributes(event, without=("data", "deliveries"))
    typer.echo(f"\n{pretty_json(event.data)}\n")
    if event.deliveries:
        print_table(event.deliveries, COLUMNS)
    else:
        note("No deliveries: no endpoint matched it, or no dispatcher has looked at it yet.")
