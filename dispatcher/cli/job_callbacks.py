"""`dispatcher jobs callback`: a job's own callback URL."""

from typing import Annotated

import typer

from dispatcher.cli import endpoints, options
from dispatcher.cli.options import examples

app = typer.Typer(
    no_args_is_help=True,
    help="Jobs: register a callback URL.",
    epilog=examples("dispatcher jobs callback job_1 https://example.com/hook"),
)


@app.command(
    epilog=examples(
        "dispatcher jobs callback job_1 https://example.com/hook",
        "dispatcher jobs callback job_1 https://example.com/hook --event-types 'job.*' --expires-in-s 3600 --json",
    )
)
def callback(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.", show_default=False)],
    url: endpoints.Url,
    event_types: options.EventTypes = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Signs deliveries (default: the tenant's, or one is made).")
    ] = None,
    description: options.Description = None,
    profile: options.BodyProfile = None,
    ordered: options.Ordered = None,
    order_hold_s: options.OrderHoldS = None,
    progress_interval_s: options.ProgressIntervalS = None,
    heartbeat_s: options.HeartbeatS = None,
    signatures: options.Signatures = None,
    signature_header: options.SignatureHeader = None,
    signature_prefix: options.SignaturePrefix = None,
    headers: options.Headers = None,
    client_certificate: options.ClientCertificate = None,
    client_key: options.ClientKey = None,
    oauth2: options.OAuth2 = None,
    rate_limit: options.RateLimit = None,
    max_in_flight: options.MaxInFlight = None,
    retry_schedule: options.RetrySchedule = None,
    timeout_s: options.TimeoutS = None,
    metadata: options.Metadata = None,
    tenant: options.Owner = None,
    expires_in_s: Annotated[
        float | None, typer.Option("--expires-in-s", metavar="SECONDS", help="It matches nothing after that.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Register a URL that gets this job's events; the same job and URL again is the same endpoint."""
    # Every option of this command is one of `endpoints create`, by the same name.
    endpoints.create(**locals())
