"""OAuth2 client credentials (RFC 6749, 4.4): what is asked of a token endpoint, and what of its answer is believed."""

import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote_plus, urlencode

from dispatcher.errors import InvalidField
from dispatcher.redaction import echoes, without_echoes
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.egress import EgressRules

AuthMethod = Literal["client_secret_basic", "client_secret_post"]

#: A longer token fits into few receivers' heads.
LONGEST_TOKEN = 8000
#: How long a token is used whose answer does not say when it expires, in seconds.
UNSAID_S = 300.0
#: No token is used for longer, whatever its answer says, in seconds.
LONGEST_S = 86400.0
#: So long before its end a token is no longer used, in seconds; of a short life, a tenth.
MARGIN_S = 30.0

#: What begins with so many of a token's characters may be the token.
_TELLING = 12

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_ERROR = re.compile(r"[a-z_]{1,40}")


class NoToken(ValueError):
    """What a token endpoint answered is no token; the message says why, and repeats nothing that it chose."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and for how long it may be used."""

    text: str = field(repr=False)
    usable_s: float

    def hidden_in(self, shown: str) -> str:
        """A text with `***` in place of the token, however it is written, also where the text's end has cut it."""
        shown = without_echoes(shown, sorted(echoes(self.text), key=len, reverse=True))
        return re.sub(re.escape(self.text[:_TELLING]) + "[A-Za-z0-9._~+/=-]*", "***", shown)


@dataclass(frozen=True, slots=True)
class OAuth2:
    """Who asks for tokens, where, and for what."""

    token_url: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    audience: str | None = None
    auth_method: AuthMethod = "client_secret_basic"

    def request(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the question."""
        form = {"grant_type": "client_credentials", "scope": self.scope, "audience": self.audience}
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/x-www-form-urlencoded",
        }
        if self.auth_method == "client_secret_basic":
            # Each is encoded as in a form before they are joined (RFC 6749, 2.3.1).
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        return headers, urlencode({name: value for name, value in form.items() if value is not None}).encode()


def vet_token_url(text: str, rules: EgressRules) -> CallbackUrl:
    """A token endpoint's URL, under the same rules as a callback URL. Raises `InvalidField`."""
    try:
        url = CallbackUrl.parse(text, rules)
    except InvalidField as error:
        raise InvalidField("oauth2/token_url", error.detail) from None
    if "@" in url.shown.split("/")[2]:
        raise InvalidField("oauth2/token_url", "has a user; give client_id and client_secret instead")
    return url


def read_token(body: bytes) -> Token:
    """The token of a 2xx answer. Raises `NoToken`."""
    answer = _object(body)
    token, kind = answer.get("access_token"), answer.get("token_type", "Bearer")
    if not isinstance(token, str) or not 0 < len(token) <= LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise NoToken("its answer has no access_token that a header can carry")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NoToken("its token is not of type Bearer")
    return Token(token, _usable_s(answer.get("expires_in")))


def read_refusal(body: bytes) -> str:
    """The error code of an answer that is no 2xx, like `invalid_client`; empty where it says none."""
    try:
        code = _object(body).get("error")
    except NoToken:
        return ""
    return code if isinstance(code, str) and _ERROR.fullmatch(code) else ""


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise NoToken("its answer is no JSON, or too long") from None
    if not isinstance(answer, dict):
        raise NoToken("its answer is no JSON object")
    return answer


def _usable_s(said: object) -> float:
    if said is None:
        return UNSAID_S
    try:
        seconds = float(said) if isinstance(said, str | int | float) and not isinstance(said, bool) else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    # Also of what is not a number.
    if not seconds > 0:
        raise NoToken("its expires_in is no number of seconds")
    seconds = min(seconds, LONGEST_S)
    return seconds - min(MARGIN_S, seconds / 10)
