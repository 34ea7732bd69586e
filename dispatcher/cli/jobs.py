"""`dispatcher jobs`: where one job's events stand, the events themselves, and a link to them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples

if TYPE_CHECKING:
    from dispatcher.service.models import JobEvents, JobStatus
    from dispatcher.store.deployment import Deployment

app = typer.Typer(
    no_args_is_help=True,
    help="Jobs: what became of their events, the events in order, and a link for who waits.",
    epilog=examples("dispatcher jobs show job_1"),
)

Id = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.", show_default=False)]
Whose = Annotated[str, typer.Option("--tenant", help="Whose job it is.")]

_ENDPOINTS: Any = (
    ("ENDPOINT", lambda endpoint: endpoint.endpoint_id),
    ("STATUS", lambda endpoint: endpoint.status or "deleted"),
    ("DELIVERED", lambda endpoint: endpoint.delivered),
    ("PENDING", lambda endpoint: endpoint.pending),
    ("SENDING", lambda endpoint: endpoint.sending),
    ("DEAD", lambda endpoint: endpoint.dead),
    ("SUPERSEDED", lambda endpoint: endpoint.superseded),
    ("CANCELLED", lambda endpoint: endpoint.cancelled),
    ("LAST", lambda endpoint: endpoint.last_status or endpoint.last_error),
    ("SEQUENCE", lambda endpoint: endpoint.last_sequence),
    ("URL", lambda endpoint: endpoint.url),
)
_UNDELIVERED: Any = (
    ("ENDPOINT", lambda row: row[0].endpoint_id),
    ("SEQUENCE", lambda row: row[1].sequence),
    ("TYPE", lambda row: row[1].type),
    ("WHY", lambda row: row[2]),
    ("ATTEMPTS", lambda row: row[1].attempts),
    ("LAST", lambda row: row[1].last_status or row[1].last_error),
    ("ID", lambda row: row[3]),
)
_EVENTS: Any = (
    ("SEQUENCE", lambda event: event.sequence),
    ("TYPE", lambda event: event.type),
    ("TIME", lambda event: event.timestamp),
    ("ID", lambda event: event.id),
    ("DATA", lambda event: " ".join(event.data.split())[:120]),
)


@app.command(epilog=examples("dispatcher jobs show job_1", "dispatcher jobs show job_1 --tenant acme --json"))
def show(job_id: Id, tenant: Whose = "default", as_json: options.AsJson = False) -> None:
    """Show what became of a job's events at every endpoint, and why what is not delivered is not."""
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import job_status

    status = on_deployment(lambda deployment: job_status.status(deployment, job_id, tenant=tenant))
    print_answer(status, as_json, lambda: _show(status))


@app.command(epilog=examples("dispatcher jobs events job_1", "dispatcher jobs events job_1 --after 17 --wait 30"))
def events(
    job_id: Id,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events with a higher sequence.")] = 0,
    wait: Annotated[
        float, typer.Option("--wait", min=0, max=30, metavar="SECONDS", help="Wait for one where there is none yet.")
    ] = 0.0,
    limit: options.Limit = 50,
    tenant: Whose = "default",
    as_json: options.AsJson = False,
) -> None:
    """Show a job's events in order."""
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment

    part = on_deployment(lambda deployment: _events(deployment, job_id, tenant, after, limit, wait))
    print_answer(part, as_json, lambda: _show_events(part, limit))


@app.command(epilog=examples("dispatcher jobs link job_1", "dispatcher jobs link job_1 --expires-in-s 600 --json"))
def link(
    job_id: Id,
    expires_in_s: Annotated[
        float, typer.Option("--expires-in-s", metavar="SECONDS", help="How long it holds; 7 days at most.")
    ] = 3600.0,
    tenant: Whose = "default",
    as_json: options.AsJson = False,
) -> None:
    """Make a link that opens this job's events, and nothing else, without an API key."""
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import print_answer, print_json
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import jobs
    from dispatcher.service.models import JobLinkCreate

    body = JobLinkCreate.read({"expires_in_s": expires_in_s})

    async def make(deployment: "Deployment") -> Any:
        return jobs.make_link(deployment, job_id, body, tenant=tenant)

    made = on_deployment(make)

    def shown() -> None:
        print_json(made.path)
        note(f"Put the API's address before it. It holds until {made.expires_at:%Y-%m-%d %H:%M:%S} UTC.")

    print_answer(made, as_json, shown)


async def _events(
    deployment: "Deployment", job_id: str, tenant: str, after: int, limit: int, wait_s: float
) -> "JobEvents":
    from dispatcher.service import jobs
    from dispatcher.service.job_readers import JobReaders

    readers = JobReaders(deployment)
    try:
        return await jobs.events_after(
            deployment, job_id, tenant=tenant, after=after, limit=limit, wait_s=wait_s, readers=readers
        )
    finally:
        await readers.close()


def _show(status: "JobStatus") -> None:
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import print_attributes, print_table

    print_attributes(status, without=("endpoints", "more_endpoints"))
    if not status.endpoints:
        note("No deliveries: no endpoint matched an event of it, or no dispatcher has looked at them yet.")
        return
    typer.echo()
    print_table(status.endpoints, _ENDPOINTS)
    undelivered: list[Any] = []
    for endpoint in status.endpoints:
        if endpoint.waiting is not None:
            undelivered.append((endpoint, endpoint.waiting, _why(endpoint.waiting), endpoint.waiting.delivery_id))
        undelivered += [(endpoint, letter, f"dead: {letter.reason}", letter.id) for letter in endpoint.dead_letters]
    if undelivered:
        typer.echo()
        print_table(undelivered, _UNDELIVERED)
    if status.more_endpoints:
        note("There are more endpoints; these are the ones with the most that is not delivered.")


def _why(waiting: Any) -> str:
    from dispatcher.cli.printing import shown_value

    if waiting.due_at is not None:
        return f"pending, due {shown_value(waiting.due_at)}"
    return str(waiting.state)


def _show_events(part: "JobEvents", limit: int) -> None:
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import print_table

    if part.data:
        print_table(part.data, _EVENTS)
    if part.settled:
        note("The job has settled: nothing lies behind this.")
    elif len(part.data) == limit:
        note(f"There may be more: add --after {part.after}")
    elif not part.data:
        note(f"Nothing behind {part.after} yet.")
