"""Access tokens: each asked for once however many attempts wait for it, kept until shortly before it expires.

A token endpoint is as much of a stranger as a receiver is: it is connected to under the same guard, asked seldom, for a
limited time, and of its answer little is read and nothing believed that a header could not carry.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import monotonic
from typing import assert_never
from weakref import WeakKeyDictionary, WeakValueDictionary

from msgspec import Struct
from yarl import URL

from dispatcher.rules import oauth2
from dispatcher.rules.oauth2 import OAuth2, Token
from dispatcher.states import AttemptError
from dispatcher.transport.failures import classify
from dispatcher.transport.message import Answer, Wire
from dispatcher.transport.tunnel import CancelledAtProxy, ProxyFailed
from dispatcher.version import USER_AGENT

#: How long a token endpoint may take, in seconds.
PATIENCE_S = 10.0
#: It is asked again at the earliest after so long, whatever it or a receiver answered, in seconds.
SPACING_S = 5.0
#: Requests at once to one host with token endpoints.
AT_ONCE = 5
#: Credentials whose tokens are kept, the least used forgotten first.
CAPACITY = 10_000


class Unauthorized(Exception):
    """There is no token; the message says why, and can be shown to whoever registered the endpoint."""

    def __init__(self, error: AttemptError, why: str) -> None:
        super().__init__(why)
        self.error = error


class _Kept(Struct, gc=False):
    """What came of asking, and until when it holds; in seconds of the clock."""

    asked_at: float
    until: float
    came: Token | Unauthorized


class _Known:
    """What is known of token endpoints, and how often they are asked, whichever client asks: each test event and each
    challenge has one of its own, and whoever sends many must not make more of us than deliveries do.
    """

    def __init__(self) -> None:
        self.kept: OrderedDict[OAuth2, _Kept] = OrderedDict()
        # Weak, so that they are gone with the last who asks.
        self.turns: WeakValueDictionary[OAuth2, asyncio.Lock] = WeakValueDictionary()
        self.hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


_KNOWN: WeakKeyDictionary[asyncio.AbstractEventLoop, _Known] = WeakKeyDictionary()


class Tokens:
    """The tokens of one event loop, as one client of it asks for them. `clock` counts seconds."""

    def __init__(self, wire: Wire, clock: Callable[[], float] = monotonic) -> None:
        self._wire, self._clock = wire, clock
        self._known = _KNOWN.setdefault(asyncio.get_running_loop(), _Known())
        self._asking: dict[OAuth2, asyncio.Task[_Kept]] = {}

    async def token(self, credentials: OAuth2) -> Token:
        """A token that holds. Raises `Unauthorized`, `ProxyFailed`, and `OSError` for what this machine is out of."""
        kept = self._held(credentials)
        if kept is None:
            asking = self._asking.get(credentials)
            if asking is None:
                asking = self._asking[credentials] = asyncio.create_task(self._ask(credentials))
                asking.add_done_callback(lambda task: self._asked(credentials, task))
            # Whoever stops waiting stops nobody else's.
            kept = await asyncio.shield(asking)
        match kept.came:
            case Token():
                return kept.came
            case Unauthorized():
                # Afresh: an exception that is raised again and again keeps every traceback.
                raise Unauthorized(kept.came.error, str(kept.came))
        assert_never(kept.came)

    def refused(self, credentials: OAuth2, token: Token) -> None:
        """A receiver took this token for none: another is asked for, unless it was only just got or is gone already."""
        kept = self._known.kept.get(credentials)
        if kept is not None and kept.came is token:
            kept.until = min(kept.until, kept.asked_at + SPACING_S)

    async def close(self) -> None:
        """Stops asking."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _held(self, credentials: OAuth2) -> _Kept | None:
        kept = self._known.kept.get(credentials)
        if kept is None or kept.until <= self._clock():
            return None
        self._known.kept.move_to_end(credentials)
        return kept

    async def _ask(self, credentials: OAuth2) -> _Kept:
        async with self._known.turns.setdefault(credentials, asyncio.Lock()):
            # Another client may have asked meanwhile.
            kept = self._held(credentials)
            if kept is None:
                asked_at = self._clock()
                try:
                    token = await self._answer(credentials)
                    kept = _Kept(asked_at, asked_at + max(token.usable_s, SPACING_S), token)
                except Unauthorized as failure:
                    kept = _Kept(asked_at, asked_at + SPACING_S, failure)
                self._keep(credentials, kept)
        return kept

    def _keep(self, credentials: OAuth2, kept: _Kept) -> None:
        known = self._known.kept
        known[credentials] = kept
        known.move_to_end(credentials)
        if len(known) > CAPACITY:
            known.popitem(last=False)

    def _asked(self, credentials: OAuth2, task: "asyncio.Task[_Kept]") -> None:
        del self._asking[credentials]
        if not task.cancelled():
            # Seen: whoever waited for it was told.
            task.exception()

    async def _answer(self, credentials: OAuth2) -> Token:
        url = URL(credentials.token_url, encoded=True)
        headers, body = credentials.request()
        host = self._known.hosts.setdefault(url.raw_authority, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(PATIENCE_S), host:
                answer = await self._posted(url, {**headers, "user-agent": USER_AGENT}, body)
        except ProxyFailed:
            # Nobody's fault who could be charged with it.
            raise
        except Exception as error:  # noqa: BLE001 - `classify` raises what is not the token endpoint's
            word = classify(error)
            raise Unauthorized(word, f"asking the token endpoint ended with {word}") from None
        return _read(answer)

    async def _posted(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            return await self._wire.post(url, headers, body)
        except CancelledAtProxy as error:
            # A timeout knows its own cancellation by this very class.
            raise asyncio.CancelledError from error


def _read(answer: Answer) -> Token:
    if not 200 <= answer.status < 300:
        code = oauth2.read_refusal(answer.beginning)
        raise Unauthorized(
            AttemptError.HTTP_STATUS, f"the token endpoint answered {answer.status}" + (f" {code}" if code else "")
        )
    if answer.encoding not in (None, "identity"):
        raise Unauthorized(AttemptError.PROTOCOL, "the token endpoint compressed its answer, unasked")
    try:
        return oauth2.read_token(answer.beginning)
    except oauth2.NoToken as error:
        raise Unauthorized(AttemptError.PROTOCOL, f"the token endpoint does not keep to OAuth2: {error}") from None
