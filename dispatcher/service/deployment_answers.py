"""What the service answers about the deployment: what waits in it, and where its deliveries come from."""

from pydantic import Field

from dispatcher.service.answers import Answer


class Waiting(Answer):
    """How many wait, and for how long the oldest has."""

    count: int
    oldest_age_s: float | None = Field(description="Null when there are none.")


class EndpointStats(Answer):
    """What waits for one endpoint."""

    endpoint_id: str
    pending: Waiting
    sending: Waiting
    dead_letters: Waiting


class Stats(Answer):
    """What waits in the whole deployment, or of one tenant."""

    not_fanned_out: Waiting = Field(description="Events that no dispatcher has looked at yet.")
    pending: Waiting = Field(description="Deliveries that wait, those included that are due later.")
    sending: Waiting = Field(description="Deliveries in flight.")
    dead_letters: Waiting = Field(description="Dead letters that were not redelivered.")
    endpoints: list[EndpointStats] | None = Field(description="On request: endpoints for which something waits.")


class Egress(Answer):
    """Where deliveries come from."""

    addresses: list[str]
