"""`dispatcher endpoints`: whether an endpoint is sent to, and catching up with what it missed."""

from typing import Literal

import typer

from dispatcher.cli import options
from dispatcher.cli.endpoints import Id
from dispatcher.cli.options import examples, given

app = typer.Typer()


@app.command(epilog=examples("dispatcher endpoints enable ep_0123456789abc"))
def enable(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Let a disabled endpoint match again; what it missed is sent by `recover`."""
    _switch(endpoint_id, "enable", tenant, as_json)


@app.command(epilog=examples("dispatcher endpoints disable ep_0123456789abc"))
def disable(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Let it match nothing; what waits for it ends cancelled, and `recover` would send it."""
    _switch(endpoint_id, "disable", tenant, as_json)


@app.command(epilog=examples("dispatcher endpoints pause ep_0123456789abc"))
def pause(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Keep what matches, and send nothing."""
    _switch(endpoint_id, "pause", tenant, as_json)


@app.command(epilog=examples("dispatcher endpoints resume ep_0123456789abc"))
def resume(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Send again, first what was kept."""
    _switch(endpoint_id, "resume", tenant, as_json)


@app.command(
    epilog=examples("dispatcher endpoints recover ep_0123456789abc --since 6h --yes --rate-per-s 50"),
)
def recover(
    endpoint_id: Id,
    since: options.Since = None,
    until: options.Until = None,
    rate_per_s: options.RatePerS = None,
    tenant: options.Tenant = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    as_json: options.AsJson = False,
) -> None:
    """Send what it missed: everything that matches, was published since then, and was not delivered."""
    from dispatcher.cli.confirmation import confirm
    from dispatcher.cli.redelivery import start_and_follow
    from dispatcher.service import endpoints
    from dispatcher.service.models import Recover

    if since is None:
        raise typer.BadParameter("is required: say from when on, like 6h or 2026-01-02T03:04:05Z", param_hint="--since")
    body = Recover.read(given(since=since, until=until, rate_per_s=rate_per_s))
    confirm(yes, f"Send {endpoint_id} everything that it missed since {since.astimezone():%Y-%m-%d %H:%M:%S}?")
    start_and_follow(
        lambda deployment: endpoints.recover(deployment, endpoint_id, body, tenant=tenant),
        tenant=tenant,
        wait=wait,
        as_json=as_json,
    )


def _switch(
    endpoint_id: str, action: Literal["enable", "disable", "pause", "resume"], tenant: str | None, as_json: bool
) -> None:
    from dispatcher.cli.asking import ask
    from dispatcher.service import endpoints

    ask(lambda deployment: endpoints.set_status(deployment, endpoint_id, action, tenant=tenant), as_json)
