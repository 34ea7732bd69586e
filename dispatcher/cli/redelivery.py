"""A bulk redelivery as the command line shows it: started, followed by a progress bar, and left running on Ctrl-C."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher.cli.asking import ask
from dispatcher.cli.confirmation import on_a_terminal
from dispatcher.cli.failures import INTERRUPTED, note
from dispatcher.cli.printing import print_answer
from dispatcher.cli.session import on_deployment
from dispatcher.service import redeliveries
from dispatcher.service.liveness import dispatchers_alive
from dispatcher.service.models import Redelivery, RedeliveryAccepted
from dispatcher.states import RunState
from dispatcher.store.deployment import Deployment

#: How often the run is looked at, in seconds.
_LOOK_EVERY_S = 0.25


def start_and_follow(
    start: Callable[[Deployment], Awaitable[RedeliveryAccepted]], *, tenant: str | None, wait: bool, as_json: bool
) -> None:
    """Starts a run; follows it where somebody watches, or where `wait` is said."""
    accepted, alive = on_deployment(lambda deployment: _started(deployment, start))
    run_id = accepted.id
    if not (wait and as_json):
        print_answer(accepted, as_json, lambda: _tell(accepted))
    if run_id is None or (accepted.matched == 0 and not wait):
        return
    if not alive:
        note("No dispatcher is running: it starts when `dispatcher serve` or `dispatcher work` does.")
    if wait or (on_a_terminal() and alive and not as_json):
        follow(run_id, tenant=tenant, as_json=as_json)


def follow(run_id: str, *, tenant: str | None, as_json: bool) -> None:
    """Shows a run's progress until all of it was put back. Ctrl-C leaves the run going and says how to stop it."""
    try:
        ask(lambda deployment: _followed(deployment, run_id, tenant), as_json)
    except KeyboardInterrupt:
        note(f"It goes on without you; to stop it: dispatcher dead-letters cancel-redelivery {run_id}")
        raise typer.Exit(INTERRUPTED) from None


async def _started(
    deployment: Deployment, start: Callable[[Deployment], Awaitable[RedeliveryAccepted]]
) -> tuple[RedeliveryAccepted, bool]:
    accepted = await start(deployment)
    return accepted, await dispatchers_alive(deployment) > 0


async def _followed(deployment: Deployment, run_id: str, tenant: str | None) -> Redelivery:
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[green]{task.fields[delivered]} delivered[/], [red]{task.fields[failed]} failed[/]"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("Redelivering", total=None, delivered=0, failed=0)
        while True:
            run = await redeliveries.get(deployment, run_id, tenant=tenant)
            progress.update(task, total=run.matched, completed=run.done, delivered=run.delivered, failed=run.failed)
            if run.state is not RunState.RUNNING:
                return run
            await asyncio.sleep(_LOOK_EVERY_S)


def _tell(accepted: RedeliveryAccepted) -> None:
    if accepted.dry_run:
        typer.echo(f"{accepted.matched} would be redelivered.")
    elif accepted.matched == 0:
        typer.echo("Nothing matches; nothing is redelivered.")
    else:
        typer.echo(f"{accepted.matched} are redelivered by run {accepted.id}.")
