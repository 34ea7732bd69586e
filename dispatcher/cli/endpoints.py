"""`dispatcher endpoints`: registered callback URLs, and what is sent to them."""

from typing import Annotated, Any, Literal

import typer

from dispatcher.cli import options
from dispatcher.cli.options import examples, given, pairs, unnulled
from dispatcher.states import EndpointStatus

app = typer.Typer(
    no_args_is_help=True,
    help="Callback URLs: register, change, pause, test, catch up.",
    epilog=examples("dispatcher endpoints create https://example.com/hook --event-types 'job.*'"),
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Where deliveries are POSTed to.", show_default=False)]
Id = Annotated[str, typer.Argument(metavar="EP_ID", help="The endpoint's id.", show_default=False)]


@app.command(
    epilog=examples(
        "dispatcher endpoints create https://example.com/hook --event-types 'job.*' --secret s3cret-text --json",
        "dispatcher endpoints create https://example.com/hook --headers 'X-Team: ai' --retry-schedule '5s,5m,2h'",
        "dispatcher endpoints create https://example.com/hook --client-certificate @client.pem --client-key @key.pem",
    )
)
def create(
    url: Url,
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
    rate_limit: options.RateLimit = None,
    max_in_flight: options.MaxInFlight = None,
    retry_schedule: options.RetrySchedule = None,
    timeout_s: options.TimeoutS = None,
    metadata: options.Metadata = None,
    client_certificate: options.ClientCertificate = None,
    client_key: options.ClientKey = None,
    oauth2: options.OAuth2 = None,
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
) -> None:
    """Register a callback URL; its secret is shown this once."""
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints
    from dispatcher.service.models import CallbackCreate, EndpointCreate

    fields = _policy(
        event_types=event_types,
        description=description,
        profile=profile,
        ordered=ordered,
        order_hold_s=order_hold_s,
        progress_interval_s=progress_interval_s,
        heartbeat_s=heartbeat_s,
        signatures=signatures,
        signature_header=signature_header,
        signature_prefix=signature_prefix,
        headers=headers,
        rate_limit=rate_limit,
        max_in_flight=max_in_flight,
        retry_schedule=retry_schedule,
        timeout_s=timeout_s,
        metadata=metadata,
        client_certificate=client_certificate,
        client_key=client_key,
        oauth2=oauth2,
    ) | given(url=url, secret=secret, tenant=tenant)
    owner = tenant or "default"
    if job_id is None:
        if expires_in_s is not None:
            raise typer.BadParameter("is for a job's callback: add --job-id", param_hint="--expires-in-s")
        body = EndpointCreate.read(fields)
        made, _ = on_deployment(
            lambda deployment: endpoints.create(deployment, body, tenant=owner, idempotency_key=idempotency_key)
        )
    else:
        if idempotency_key is not None:
            raise typer.BadParameter(
                "is not for a job's callback: the same job and URL is the same callback anyway",
                param_hint="--idempotency-key",
            )
        callback = CallbackCreate.read(fields | given(expires_in_s=expires_in_s))
        made, _ = on_deployment(
            lambda deployment: endpoints.create_callback(deployment, job_id, callback, tenant=owner)
        )
    print_answer(made, as_json, lambda: _show_with_secret(made))


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
    from dispatcher.service import endpoints

    _print(lambda deployment: endpoints.get(deployment, endpoint_id, tenant=tenant), as_json)


@app.command(
    epilog=examples(
        "dispatcher endpoints update ep_0123456789abc --max-in-flight 10 --timeout-s 5",
        "dispatcher endpoints update ep_0123456789abc --retry-schedule null",
    )
)
def update(
    endpoint_id: Id,
    url: Annotated[str | None, typer.Option("--url", help="Where deliveries are POSTed to from now on.")] = None,
    event_types: options.EventTypes = None,
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
    rate_limit: options.RateLimit = None,
    max_in_flight: options.MaxInFlight = None,
    retry_schedule: options.RetrySchedule = None,
    timeout_s: options.TimeoutS = None,
    metadata: options.Metadata = None,
    client_certificate: options.ClientCertificate = None,
    client_key: options.ClientKey = None,
    oauth2: options.OAuth2 = None,
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
) -> None:
    """Change the fields that are given; `null` takes a value away, `***` leaves a header's value as it is."""
    from dispatcher.service import endpoints
    from dispatcher.service.models import EndpointUpdate

    fields = _policy(
        event_types=event_types,
        description=description,
        profile=profile,
        ordered=ordered,
        order_hold_s=order_hold_s,
        progress_interval_s=progress_interval_s,
        heartbeat_s=heartbeat_s,
        signatures=signatures,
        signature_header=signature_header,
        signature_prefix=signature_prefix,
        headers=headers,
        rate_limit=rate_limit,
        max_in_flight=max_in_flight,
        retry_schedule=retry_schedule,
        timeout_s=timeout_s,
        metadata=metadata,
        client_certificate=client_certificate,
        client_key=client_key,
        oauth2=oauth2,
    ) | given(url=url)
    if not fields:
        raise typer.BadParameter("give at least one field to change, like --timeout-s 5")
    body = EndpointUpdate.read(fields)
    _print(lambda deployment: endpoints.update(deployment, endpoint_id, body, tenant=tenant), as_json)


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
    "rotate-secret",
    epilog=examples(
        "dispatcher endpoints rotate-secret ep_0123456789abc",
        "dispatcher endpoints rotate-secret ep_0123456789abc --secret n3w-s3cret --overlap-s 0",
        "dispatcher endpoints rotate-secret ep_0123456789abc --stage",
    ),
)
def rotate_secret(
    endpoint_id: Id,
    secret: Annotated[
        str | None, typer.Option("--secret", help="The new secret (default: one is made and shown).")
    ] = None,
    overlap_s: Annotated[
        float | None, typer.Option("--overlap-s", metavar="SECONDS", help="How long both sign (default: 86400).")
    ] = None,
    stage: Annotated[
        bool, typer.Option("--stage/--no-stage", help="Only show it; it signs once `activate-secret` has tried it.")
    ] = False,
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
) -> None:
    """Give it a new secret, shown this once; both sign during the overlap."""
    from dispatcher.cli.failures import note
    from dispatcher.cli.printing import print_answer
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints
    from dispatcher.service.models import RotateSecret

    body = RotateSecret.read(given(secret=secret, overlap_s=overlap_s, stage=stage or None))
    rotated = on_deployment(lambda deployment: endpoints.rotate_secret(deployment, endpoint_id, body, tenant=tenant))
    print_answer(rotated, as_json, lambda: _show_with_secret(rotated))
    if stage and not as_json:
        note(f"It signs nothing yet. Once its receiver has it: dispatcher endpoints activate-secret {endpoint_id}")


@app.command(
    "activate-secret",
    epilog=examples(
        "dispatcher endpoints activate-secret ep_0123456789abc",
        "dispatcher endpoints activate-secret ep_0123456789abc --force",
    ),
)
def activate_secret(
    endpoint_id: Id,
    force: Annotated[
        bool, typer.Option("--force/--no-force", help="Whatever its receiver says: no test event is sent.")
    ] = False,
    tenant: options.Tenant = None,
    as_json: options.AsJson = False,
) -> None:
    """Let a staged secret sign, once its receiver has taken a test event signed with it alone."""
    from dispatcher.service import endpoints
    from dispatcher.service.models import ActivateSecret

    body = ActivateSecret(force=force)
    _print(lambda deployment: endpoints.activate_secret(deployment, endpoint_id, body, tenant=tenant), as_json)


@app.command("public-keys", epilog=examples("dispatcher endpoints public-keys ep_0123456789abc"))
def list_public_keys(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """List the public keys that verify its v1a signatures, the newest first."""
    from dispatcher.cli.printing import print_page
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import public_keys

    page = on_deployment(lambda deployment: public_keys.of_endpoint(deployment, endpoint_id, tenant=tenant))
    columns = (
        ("ID", lambda key: key.id),
        ("PUBLIC KEY", lambda key: key.public_key),
        ("STAGED", lambda key: key.staged),
        ("RETIRES", lambda key: key.retires_at),
    )
    none = f"None: dispatcher endpoints update {endpoint_id} --signatures v1 --signatures v1a"
    print_page(page, as_json, columns, none)


@app.command("test", epilog=examples("dispatcher endpoints test ep_0123456789abc"))
def send_test(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Send a signed webhook.test event now; exit code 1 when it is not taken with a 2xx."""
    from dispatcher.cli.printing import print_answer, print_attributes
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints

    result = on_deployment(lambda deployment: endpoints.send_test(deployment, endpoint_id, tenant=tenant))
    print_answer(result, as_json, lambda: print_attributes(result))
    if not result.delivered:
        raise typer.Exit(1)


@app.command(epilog=examples("dispatcher endpoints verify ep_0123456789abc"))
def verify(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Challenge the receiver to prove that it wants what is sent to it; exit code 1 when it does not."""
    from dispatcher.cli.printing import print_answer, print_attributes
    from dispatcher.cli.session import on_deployment
    from dispatcher.service import endpoints

    result = on_deployment(lambda deployment: endpoints.verify(deployment, endpoint_id, tenant=tenant))
    print_answer(result, as_json, lambda: print_attributes(result))
    if not result.verified:
        raise typer.Exit(1)


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


def _policy(*, headers: list[str] | None, metadata: list[str] | None, **fields: Any) -> dict[str, Any]:
    """The options that were given, as fields of a request."""
    sent = {name: unnulled(value) for name, value in given(**fields).items()}
    return sent | given(headers=pairs(headers, ":", "--headers"), metadata=pairs(metadata, "=", "--metadata"))


def _switch(
    endpoint_id: str, action: Literal["enable", "disable", "pause", "resume"], tenant: str | None, as_json: bool
) -> None:
    from dispatcher.service import endpoints

    _print(lambda deployment: endpoints.set_status(deployment, endpoint_id, action, tenant=tenant), as_json)


def _print(work: Any, as_json: bool) -> None:
    from dispatcher.cli.printing import print_answer, print_attributes
    from dispatcher.cli.session import on_deployment

    endpoint = on_deployment(work)
    print_answer(endpoint, as_json, lambda: print_attributes(endpoint))


def _show_with_secret(made: Any) -> None:
    """An endpoint that was just made or rotated, with its secret."""
    from dispatcher.cli.printing import print_attributes, print_secret

    print_attributes(made, without=("secret",))
    print_secret("secret", made.secret)
