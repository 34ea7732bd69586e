"""`dispatcher deliveries`: one event to one endpoint, and every attempt at it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples
from dispatcher.states import DeliveryState

if TYPE_CHECKING:
    from dispatcher.service.models import DeliveryWithLog

app = typer.Typer(
    no_args_is_help=True,
    help="Deliveries: list, see every attempt, redeliver or cancel one.",
    epilog=examples("dispatcher deliveries list --state dead"),
)

Id = Annotated[str, typer.Argument(metavar="DLV_ID", help="The delivery's id.", show_default=False)]

#: A list of deliveries.
COLUMNS: Any = (
    ("ID", lambda delivery: delivery.id),
    ("STATE", lambda delivery: delivery.state),
    ("REASON", lambda delivery: delivery.reason),
    ("ATTEMPTS", lambda delivery: delivery.attempts),
    ("LAST", lambda delivery: delivery.last_status or delivery.last_error),
    ("DUE", lambda delivery: delivery.due_at),
    ("TYPE", lambda delivery: delivery.type),
    ("EVENT", lambda delivery: delivery.event_id),
    ("ENDPOINT", lambda delivery: delivery.endpoint_id),
    ("UPDATED", lambda delivery: delivery.updated_at),
)
_ATTEMPTS: Any = (
    ("#", lambda attempt: attempt.number),
    ("STARTED", lambda attempt: attempt.started_at),
    ("MS", lambda attempt: round(attempt.duration_ms)),
    ("STATUS", lambda attempt: attempt.status),
    ("ERROR", lambda attempt: attempt.error),
    ("ANSWER", lambda attempt: " ".join((attempt.response_excerpt or "").split())[:100]),
    ("ID", lambda attempt: attempt.id),
)


@app.command("list", epilog=examples("dispatcher deliveries list --state pending --endpoint-id ep_0123456789abc"))
def list_(
    state: Annotated[DeliveryState | None, typer.Option("--state", help="Only in this state.")] = None,
    endpoint_id: options.EndpointId = None,
    event_id: Annotated[str | None, typer.Option("--event-id", metavar="EVT_ID", help="Only this event's.")] = None,
    job_id: options.JobId = None,
    tenant: options.Tenant = None,
    limit: options.Limit = 50,
    cursor: options.Cursor = None,
    as_json: options.AsJson = False,
) -> None:
    """List deliveries, newest first."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import deliveries

    page = on_deployment(
        lambda deployment: deliveries.list_page(
            deployment,
            tenant=tenant,
            limit=limit,
            cursor=cursor,
            state=state,
            endpoint_id=endpoint_id,
            event_id=event_id,
            job_id=job_id,
        )
    )
    print_page(page, as_json, COLUMNS, "No deliveries: events become deliveries while a dispatcher runs.")


@app.command(epilog=examples("dispatcher deliveries show dlv_0123456789abc"))
def show(delivery_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Show a delivery with every attempt at it."""
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import deliveries

    delivery = on_deployment(lambda deployment: deliveries.get(deployment, delivery_id, tenant=tenant))
    print_answer(delivery, as_json, lambda: _show(delivery))


@app.command(epilog=examples("dispatcher deliveries redeliver dlv_0123456789abc"))
def redeliver(delivery_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Send a delivery again: same id and bytes, and its retry schedule starts anew."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import deliveries

    ask(lambda deployment: deliveries.redeliver(deployment, delivery_id, tenant=tenant), as_json)


@app.command(epilog=examples("dispatcher deliveries cancel dlv_0123456789abc"))
def cancel(delivery_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Give up a delivery that waits; `redeliver` takes it up again."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import deliveries

    ask(lambda deployment: deliveries.cancel(deployment, delivery_id, tenant=tenant), as_json)


def _show(delivery: "DeliveryWithLog") -> None:
    from dispatcher.cli.printing import print_attributes, print_table

    print_attributes(delivery, without=("attempt_log",))
    if delivery.attempt_log:
        typer.echo()
        print_table(delivery.attempt_log, _ATTEMPTS)
