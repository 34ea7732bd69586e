"""What an endpoint shows its receiver beside the signature: a client certificate, an access token, or both."""

from dataclasses import dataclass

from dispatcher.rules.client_identity import ClientIdentity
from dispatcher.rules.oauth2 import OAuth2


@dataclass(frozen=True, slots=True, eq=False)
class Credentials:
    """An endpoint's own; few have any."""

    #: Its connections are shared with no other endpoint's.
    endpoint_id: str
    identity: ClientIdentity | None
    oauth2: OAuth2 | None
