"""`dispatcher dead-letters`: the admin's script for what was given up: look, redeliver in bulk, discard."""

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict, Unpack

import typer

from dispatcher.cli import options
from dispatcher.cli.option_groups import taking
from dispatcher.cli.options import examples, given

app = typer.Typer(
    no_args_is_help=True,
    help="Dead letters: list, redeliver one or many, discard.",
    epilog=examples("dispatcher dead-letters redeliver --reason exhausted --since 2h --dry-run"),
)

Id = Annotated[str, typer.Argument(metavar="DL_ID", help="The dead letter's id.", show_default=False)]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DL_ID]...", help="These only; or use filters, or --all.", show_default=False),
]
MoreIds = Annotated[
    list[str] | None, typer.Option("--ids", metavar="DL_ID", help="The same as an argument; repeat it for several.")
]
RunId = Annotated[str, typer.Argument(metavar="RDL_ID", help="The run's id.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Everything, where no filter is given.")]


class Which(TypedDict, total=False):
    """The options that say which dead letters, as filters."""

    endpoint_id: options.EndpointId
    type: options.EventType
    reason: options.DeadReason
    job_id: options.JobId
    since: options.Since
    until: options.Until
    redelivered: options.Redelivered


@app.command("list", epilog=examples("dispatcher dead-letters list --reason exhausted --since 1d"))
@taking(Which)
def list_(
    tenant: options.Tenant = None,
    limit: options.Limit = 50,
    cursor: options.Cursor = None,
    as_json: options.AsJson = False,
    **which: Unpack[Which],
) -> None:
    """List dead letters, newest first."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import dead_letters
    from dispatcher.service.models import DeadLetterFilter

    filters = DeadLetterFilter.read(given(**which))
    page = on_deployment(
        lambda deployment: dead_letters.list_page(deployment, filters, tenant=tenant, limit=limit, cursor=cursor)
    )
    columns = (
        ("ID", lambda letter: letter.id),
        ("REASON", lambda letter: letter.reason),
        ("ATTEMPTS", lambda letter: letter.attempts),
        ("LAST", lambda letter: letter.last_status or letter.last_error),
        ("TYPE", lambda letter: letter.type),
        ("JOB", lambda letter: letter.job_id),
        ("ENDPOINT", lambda letter: letter.endpoint_id),
        ("DIED", lambda letter: letter.created_at),
        ("REDELIVERED", lambda letter: letter.redelivered_at),
    )
    print_page(page, as_json, columns, "No dead letters.")


@app.command(epilog=examples("dispatcher dead-letters show dl_0123456789abc"))
def show(dead_letter_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Show one dead letter."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import dead_letters

    ask(lambda deployment: dead_letters.get(deployment, dead_letter_id, tenant=tenant), as_json)


@app.command(
    epilog=examples(
        "dispatcher dead-letters redeliver dl_0123456789abc",
        "dispatcher dead-letters redeliver --endpoint-id ep_0123456789abc --since 2h --dry-run",
        "dispatcher dead-letters redeliver --all --yes --rate-per-s 50",
    )
)
@taking(Which, before="everything")
def redeliver(
    ids: Ids = None,
    more_ids: MoreIds = None,
    everything: All = False,
    dry_run: options.DryRun = False,
    rate_per_s: options.RatePerS = None,
    tenant: options.Tenant = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    as_json: options.AsJson = False,
    **which: Unpack[Which],
) -> None:
    """Send dead letters again: same ids and bytes; those that were not redelivered yet, unless you name them.

    A running dispatcher does the work, so that it survives this command; progress is shown on a terminal.
    """
    from dispatcher.cli.confirmation import confirm, require_yes_or_terminal
    from dispatcher.cli.redelivery import start_and_follow
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import dead_letters
    from dispatcher.service.models import DeadLetterRedeliver

    chosen_ids = [*(ids or ()), *(more_ids or ())]
    chosen = _chosen(chosen_ids, which, everything, tenant)
    body = DeadLetterRedeliver.read(chosen | given(rate_per_s=rate_per_s) | {"dry_run": dry_run})
    if not chosen_ids and not dry_run and not yes:
        require_yes_or_terminal(yes, "redelivering in bulk")
        counting = DeadLetterRedeliver.read(chosen | {"dry_run": True})
        count = on_deployment(lambda deployment: dead_letters.redeliver(deployment, counting, tenant=tenant))
        confirm(yes, f"Redeliver {_counted(count.matched)}?")
    start_and_follow(
        lambda deployment: dead_letters.redeliver(deployment, body, tenant=tenant),
        tenant=tenant,
        wait=wait,
        as_json=as_json,
    )


@app.command(
    epilog=examples(
        "dispatcher dead-letters discard dl_0123456789abc --yes",
        "dispatcher dead-letters discard --reason gone --until 7d --dry-run",
    )
)
@taking(Which, before="everything")
def discard(
    ids: Ids = None,
    more_ids: MoreIds = None,
    everything: All = False,
    dry_run: options.DryRun = False,
    tenant: options.Tenant = None,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
    **which: Unpack[Which],
) -> None:
    """Forget dead letters for good; their events and deliveries stay until retention ends."""
    from dispatcher.cli.confirmation import confirm, require_yes_or_terminal
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import dead_letters
    from dispatcher.service.models import DeadLetterDiscard

    chosen = _chosen([*(ids or ()), *(more_ids or ())], which, everything, tenant)
    body = DeadLetterDiscard.read(chosen | {"dry_run": dry_run})
    if not dry_run and not yes:
        require_yes_or_terminal(yes, "discarding dead letters")
        counting = DeadLetterDiscard.read(chosen | {"dry_run": True})
        count = on_deployment(lambda deployment: dead_letters.discard(deployment, counting, tenant=tenant))
        confirm(yes, f"Discard {_counted(count.matched)} for good?")
    result = on_deployment(lambda deployment: dead_letters.discard(deployment, body, tenant=tenant))
    print_answer(
        result,
        as_json,
        lambda: typer.echo(f"{result.matched} would be discarded." if dry_run else f"{result.matched} are discarded."),
    )


@app.command(epilog=examples("dispatcher dead-letters redelivery rdl_0123456789abc --wait"))
def redelivery(
    run_id: RunId, tenant: options.Tenant = None, wait: options.Wait = False, as_json: options.AsJson = False
) -> None:
    """Show how far a bulk redelivery is."""
    from dispatcher.cli.asking import ask
    from dispatcher.cli.redelivery import follow
    from dispatcher.service import redeliveries

    if wait:
        follow(run_id, tenant=tenant, as_json=as_json)
        return
    ask(lambda deployment: redeliveries.get(deployment, run_id, tenant=tenant), as_json)


@app.command("cancel-redelivery", epilog=examples("dispatcher dead-letters cancel-redelivery rdl_0123456789abc"))
def cancel_redelivery(run_id: RunId, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Stop a bulk redelivery; what it has put back already is still sent."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import redeliveries

    ask(lambda deployment: redeliveries.cancel(deployment, run_id, tenant=tenant), as_json)


def _chosen(ids: Sequence[str], which: Which, everything: bool, tenant: str | None) -> dict[str, Any]:
    """What a request for many says of which ones."""
    return given(ids=ids or None, **which, tenant=tenant, all=everything or None)


def _counted(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"
