"""`dispatcher endpoints`: asking an endpoint's receiver whether it takes what is sent to it."""

import typer

from dispatcher.cli import options
from dispatcher.cli.endpoints import Id
from dispatcher.cli.failures import note
from dispatcher.cli.options import examples

app = typer.Typer()


@app.command("test", epilog=examples("dispatcher endpoints test ep_0123456789abc"))
def send_test(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Send a signed webhook.test event now; exit code 1 when it is not taken with a 2xx."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import endpoints

    result = ask(lambda deployment: endpoints.send_test(deployment, endpoint_id, tenant=tenant), as_json)
    if not result.delivered:
        raise typer.Exit(1)


@app.command(epilog=examples("dispatcher endpoints verify ep_0123456789abc"))
def verify(endpoint_id: Id, tenant: options.Tenant = None, as_json: options.AsJson = False) -> None:
    """Challenge the receiver to prove that it wants what is sent to it; exit code 1 when it does not."""
    from dispatcher.cli.asking import ask
    from dispatcher.service import endpoints

    result = ask(lambda deployment: endpoints.verify(deployment, endpoint_id, tenant=tenant), as_json)
    if not result.verified:
        if result.error is None:
            note(
                "A 2xx alone proves nothing: the body of the answer has to be the event's data.challenge, as a text"
                ' or as {"challenge": "…"}.'
            )
        raise typer.Exit(1)
