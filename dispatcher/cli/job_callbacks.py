"""`dispatcher jobs callback`: a job's own callback URL."""

from typing import Annotated, Unpack

import typer

from dispatcher.cli import endpoints, options
from dispatcher.cli.endpoint_fields import EndpointFields, Secret, Url
from dispatcher.cli.option_groups import taking
from dispatcher.cli.options import examples

app = typer.Typer()


@app.command(
    epilog=examples(
        "dispatcher jobs callback job_1 https://example.com/hook",
        "dispatcher jobs callback job_1 https://example.com/hook --event-types 'job.*' --expires-in-s 3600 --json",
    )
)
@taking(EndpointFields)
def callback(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.", show_default=False)],
    url: Url,
    secret: Secret = None,
    tenant: options.Owner = None,
    expires_in_s: Annotated[
        float | None, typer.Option("--expires-in-s", metavar="SECONDS", help="It matches nothing after that.")
    ] = None,
    as_json: options.AsJson = False,
    **fields: Unpack[EndpointFields],
) -> None:
    """Register a URL that gets this job's events; the same job and URL again is the same endpoint."""
    endpoints.create(
        url=url, secret=secret, tenant=tenant, job_id=job_id, expires_in_s=expires_in_s, as_json=as_json, **fields
    )
