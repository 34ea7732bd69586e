"""An endpoint's credentials as rows keep them: vetted when given, encrypted at rest, told without what is secret."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Row

from dispatcher.errors import InvalidField
from dispatcher.rules import json_text
from dispatcher.rules.client_identity import ClientIdentity
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.oauth2 import OAuth2, vet_token_url
from dispatcher.store.keyring import KeyRing

#: The fields of a request that they are given with.
FIELDS = ("client_certificate", "client_key", "oauth2")
#: The columns that are sealed, and what for.
SEALED = {"client_identity_sealed": "client identity", "oauth2_sealed": "oauth2"}
#: What is in all their columns where there are none.
NONE: Mapping[str, None] = dict.fromkeys(
    (*SEALED, "client_certificate_shown", "client_certificate_expires_at", "oauth2_shown")
)

#: What stands for a stored secret that is to stay.
_KEPT = "***"


@dataclass(frozen=True, slots=True, repr=False)
class EndpointCredentials:
    """What an endpoint shows its receiver beside the signature."""

    identity: ClientIdentity | None = None
    oauth2: OAuth2 | None = None
    #: The token endpoint's URL as it may be shown.
    token_url_shown: str = ""

    def changed(self, given: Mapping[str, Any], rules: EgressRules, now: datetime) -> "EndpointCredentials":
        """These with the fields that are `given`: vetted, and `***` read as what is stored. Raises `InvalidField`."""
        credentials = self
        if "client_certificate" in given or "client_key" in given:
            credentials = replace(credentials, identity=self._identity(given, now))
        if "oauth2" in given:
            oauth2, shown = self._oauth2(given["oauth2"], rules)
            credentials = replace(credentials, oauth2=oauth2, token_url_shown=shown)
        return credentials

    def columns(self, keyring: KeyRing, endpoint_row: int) -> dict[str, Any]:
        """The columns of `endpoints` that hold them, sealed for this endpoint."""
        identity, oauth2 = self.identity, self.oauth2
        shown = identity.shown if identity is not None else {}
        return {
            "client_identity_sealed": _sealed(keyring, endpoint_row, "client_identity_sealed", identity),
            "client_certificate_shown": json.dumps(shown, ensure_ascii=False) if shown else None,
            "client_certificate_expires_at": identity.expires_at if identity is not None else None,
            "oauth2_sealed": _sealed(keyring, endpoint_row, "oauth2_sealed", oauth2),
            "oauth2_shown": None
            if oauth2 is None
            else json.dumps(
                {**asdict(oauth2), "token_url": self.token_url_shown, "client_secret": _KEPT}, ensure_ascii=False
            ),
        }

    def _identity(self, given: Mapping[str, Any], now: datetime) -> ClientIdentity | None:
        stored = self.identity
        certificate = given.get("client_certificate", stored.certificate if stored else None)
        key = given.get("client_key", _KEPT)
        if key == _KEPT and certificate is not None:
            # A certificate that is renewed under the same key comes alone.
            key = stored.key if stored else None
        if certificate is None:
            if key not in (None, _KEPT):
                raise InvalidField("client_certificate", "is required beside client_key")
            return None
        if key is None:
            raise InvalidField("client_key", "is required beside client_certificate; it is encrypted and never shown")
        return ClientIdentity.parse(certificate, key, now)

    def _oauth2(self, given: Mapping[str, Any] | None, rules: EgressRules) -> tuple[OAuth2 | None, str]:
        if given is None:
            return None, ""
        stored, wanted = self.oauth2, OAuth2(**given)
        if stored is not None and wanted.token_url == self.token_url_shown:
            wanted = replace(wanted, token_url=stored.token_url)
        url = vet_token_url(wanted.token_url, rules)
        if wanted.client_secret == _KEPT:
            # Whoever could name another token endpoint without knowing the secret would be sent it there.
            if stored is None or (stored.token_url, stored.client_id) != (wanted.token_url, wanted.client_id):
                raise InvalidField(
                    "oauth2/client_secret", "is ***, and none is stored for this token_url and client_id; send it"
                )
            wanted = replace(wanted, client_secret=stored.client_secret)
        return wanted, url.shown


def open_credentials(keyring: KeyRing, row: Row[Any]) -> EndpointCredentials:
    """The credentials in a row of `endpoints`. Raises `Unreadable`, and `ValueError` or `TypeError` for nonsense."""
    identity, oauth2 = (_opened(keyring, row.row_id, column, getattr(row, column)) for column in SEALED)
    return EndpointCredentials(
        ClientIdentity(**identity) if identity is not None else None,
        OAuth2(**oauth2) if oauth2 is not None else None,
        json_text.read(row.oauth2_shown, dict[str, str | None], {}).get("token_url") or "",
    )


def _sealed(
    keyring: KeyRing, endpoint_row: int, column: str, credential: ClientIdentity | OAuth2 | None
) -> bytes | None:
    return None if credential is None else keyring.seal(json.dumps(asdict(credential)), SEALED[column], endpoint_row)


def _opened(keyring: KeyRing, endpoint_row: int, column: str, sealed: bytes | None) -> dict[str, Any] | None:
    return None if sealed is None else json.loads(keyring.open(sealed, SEALED[column], endpoint_row))
