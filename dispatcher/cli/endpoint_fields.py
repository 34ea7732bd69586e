"""The fields of an endpoint as options, once for all commands that register or change one."""

from typing import Annotated, Any, TypedDict

import typer

from dispatcher.cli.options import given, nullable, requested
from dispatcher.cli.reading import pairs, read_count, read_file, read_number, read_object, read_schedule
from dispatcher.states import Profile, SignatureVersion

Url = Annotated[str, typer.Argument(metavar="URL", help="Where deliveries are POSTed to.", show_default=False)]
Secret = Annotated[
    str | None, typer.Option("--secret", help="Signs deliveries (default: the tenant's, or one is made).")
]


class EndpointFields(TypedDict, total=False):
    """The options that were given, by the names of their fields."""

    event_types: Annotated[
        list[str] | None,
        typer.Option(
            "--event-types", help="An exact type, or 'prefix.*'; repeat it for several.", show_default="every type"
        ),
    ]
    description: Annotated[str | None, typer.Option("--description", help="A note for people.")]
    profile: Annotated[Profile | None, typer.Option("--profile", help="How an event becomes a body.")]
    ordered: Annotated[
        bool | None, typer.Option("--ordered/--no-ordered", help="One job's events one at a time and in order.")
    ]
    order_hold_s: Annotated[
        Any,
        nullable(
            "--order-hold-s",
            read_number,
            metavar="SECONDS",
            help="How long a failing delivery holds back its job's later ones; `null`: until it is settled.",
        ),
    ]
    progress_interval_s: Annotated[
        Any,
        nullable(
            "--progress-interval-s",
            read_number,
            metavar="SECONDS",
            help="The least time between two progress deliveries of one job; `null`: no limit.",
        ),
    ]
    heartbeat_s: Annotated[
        Any,
        nullable(
            "--heartbeat-s",
            read_number,
            metavar="SECONDS",
            help="Send a webhook.heartbeat after so long without a delivery (10 or more); `null`: never.",
        ),
    ]
    signatures: Annotated[
        list[SignatureVersion] | None,
        typer.Option(
            "--signatures", help="v1 (HMAC), and v1a (ed25519) beside it; repeat it for both.", show_default="v1"
        ),
    ]
    signature_header: Annotated[
        str | None,
        typer.Option(
            "--signature-header", help="An additional header with a hex HMAC-SHA256 of the body; `null`: none."
        ),
    ]
    signature_prefix: Annotated[
        str | None, typer.Option("--signature-prefix", help="Put before that header's value, like sha256=.")
    ]
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "--headers", metavar="'NAME: VALUE'", help="A static header of every attempt; repeat it for several."
        ),
    ]
    rate_limit: Annotated[
        Any,
        nullable("--rate-limit", read_number, metavar="PER_S", help="The most attempts per second; `null`: no limit."),
    ]
    max_in_flight: Annotated[
        Any,
        nullable(
            "--max-in-flight", read_count, metavar="COUNT", help="The most attempts at once; `null`: by the settings."
        ),
    ]
    retry_schedule: Annotated[
        Any,
        nullable(
            "--retry-schedule",
            read_schedule,
            metavar="DELAYS",
            help="Delays before the retries, like 5s,5m,2h; '': one attempt only; `null`: by the settings.",
        ),
    ]
    timeout_s: Annotated[
        Any,
        nullable("--timeout-s", read_number, metavar="SECONDS", help="For a whole attempt; `null`: by the settings."),
    ]
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="NAME=VALUE", help="A text of yours; repeat it for several."),
    ]
    client_certificate: Annotated[
        str | None,
        typer.Option(
            "--client-certificate",
            parser=read_file,
            metavar="@FILE",
            help="A certificate in PEM, with its chain, for a receiver that asks who connects; `null`: none.",
        ),
    ]
    client_key: Annotated[
        str | None,
        typer.Option(
            "--client-key", parser=read_file, metavar="@FILE", help="Its private key in PEM; encrypted and never shown."
        ),
    ]
    oauth2: Annotated[
        Any,
        nullable(
            "--oauth2",
            read_object,
            metavar="@FILE",
            help="JSON with token_url, client_id and client_secret: access tokens are sent along; `null`: none.",
        ),
    ]


def as_request(fields: EndpointFields) -> dict[str, Any]:
    """The fields that were given, as a request has them."""
    named = {
        "headers": pairs(fields.get("headers"), ":", "--headers"),
        "metadata": pairs(fields.get("metadata"), "=", "--metadata"),
    }
    return requested(**fields) | given(**named)
