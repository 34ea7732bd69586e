"""The command `dispatcher`: every subcommand, and how each ends."""

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from dispatcher.cli import (
    dead_letters,
    deliveries,
    endpoint_secrets,
    endpoint_status,
    endpoint_trials,
    endpoints,
    events,
    job_callbacks,
    jobs,
    keys,
    options,
    tenants,
)
from dispatcher.cli.event_loop import end_when_asked
from dispatcher.cli.failures import exit_code_of, tell_unexpected
from dispatcher.cli.options import examples

app = typer.Typer(
    name="dispatcher",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Outbound webhooks from a transactional outbox: signed, ordered per job, retried, dead-lettered, redelivered."
    "\n\nSettings come from the environment or a file .env: `dispatcher settings` prints them all.",
    epilog=examples("dispatcher demo", "dispatcher serve", "dispatcher doctor"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows no dash shows a question mark, rather than a traceback.
            stream.reconfigure(errors="replace")
    sys.excepthook = tell_unexpected
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    command = get_command(app)
    return exit_code_of(lambda: command.main(list(arguments), prog_name="dispatcher", standalone_mode=False))


def _print_version(wanted: bool) -> None:
    if wanted:
        from dispatcher.version import VERSION

        typer.echo(f"dispatcher {VERSION}")
        raise typer.Exit


@app.callback()
def dispatcher(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog=examples("dispatcher demo"))
def demo() -> None:
    """Watch a job's events being sent, failing, retried, dying and redelivered; nothing to set up."""
    from dispatcher.demo.story import run as play

    raise typer.Exit(play())


@app.command(
    epilog=examples(
        "dispatcher serve --port 8080",
        "DISPATCHER_ALLOW_HTTP=true dispatcher serve --port 0",
        "dispatcher serve --host 0.0.0.0 --port 8443 --tls-cert fullchain.pem --tls-key privkey.pem",
    )
)
def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on (default: by the settings).")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; 0: any, printed (default: by the settings).")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Serve HTTPS with this PEM certificate chain.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its PEM key (default: in the same file).")
    ] = None,
) -> None:
    """Run the API and a dispatcher in one process."""
    end_when_asked()
    from dispatcher.cli import serve as serving

    serving.serve(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key)


@app.command(
    epilog=examples("dispatcher work --processes 4 --port 9100", "dispatcher work --until-idle"),
)
def work(
    processes: Annotated[int, typer.Option("--processes", min=1, max=256, help="How many; SQLite takes one.")] = 1,
    host: Annotated[str | None, typer.Option("--host", help="Address of the port (default: by the settings).")] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Serve /healthz, /readyz and /metrics there; 0: any, printed."),
    ] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when nothing is due now.")] = False,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run dispatchers without the API: more cores, more hosts, or once from cron."""
    end_when_asked()
    from dispatcher.cli import work as working

    working.work(processes=processes, port=port, host=host, until_idle=until_idle, supervised=supervised)


@app.command(epilog=examples("dispatcher migrate", "dispatcher migrate --check"))
def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 when migrations are pending.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Bring the database's schema up to date."""
    from dispatcher.cli import schema

    raise typer.Exit(schema.migrate(check=check, as_json=as_json))


@app.command(epilog=examples("dispatcher settings", "dispatcher settings --json"))
def settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the documentation's page.")] = False,
) -> None:
    """Print every setting with its value, default, unit and help."""
    from dispatcher.cli import settings_page

    if as_markdown:
        typer.echo(settings_page.markdown())
    else:
        settings_page.print_settings(as_json=as_json)


@app.command(epilog=examples("dispatcher doctor"))
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check settings, database, schema, keys, clock and egress, and say what to do; exit code 1 when one fails."""
    from dispatcher.cli import findings

    raise typer.Exit(findings.examine_and_print(as_json=as_json))


for part in (endpoint_status, endpoint_secrets, endpoint_trials):
    endpoints.app.add_typer(part.app)
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(events.app, name="events")
app.add_typer(deliveries.app, name="deliveries")
jobs.app.add_typer(job_callbacks.app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(keys.app, name="keys")
app.add_typer(tenants.app, name="tenants")
