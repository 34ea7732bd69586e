"""The lean client: a pool of conversations, with nothing between the engine and httptools that a webhook can spare."""

import asyncio
from collections.abc import Mapping

from msgspec import Struct
from yarl import URL

from dispatcher.transport.conversation import Conversation
from dispatcher.transport.dial import Dialer, Place
from dispatcher.transport.guard import vet
from dispatcher.transport.message import Answer, Terms, request_head, serialize

#: What belongs to one URL is kept for so many of them.
ROUTES = 1024


class _Route(Struct, frozen=True):
    """What every POST to one URL has in common."""

    place: Place
    head: str

    def __repr__(self) -> str:
        # Its head has the URL's query, and its password.
        return "_Route()"


class LeanWire:
    """A connection pool that POSTs. Use it in the event loop that runs it; close it at the end."""

    def __init__(self, terms: Terms) -> None:
        self._loop = asyncio.get_running_loop()
        self._rules = terms.rules
        self._dialer = Dialer(terms.rules, terms.resolver, terms.contexts, timeout_s=terms.connect_timeout_s)
        self._keep_alive_s = terms.keep_alive_s
        self._read_limit = terms.read_limit
        self._routes: dict[URL, _Route] = {}
        #: Who may be asked, the one used last at the end.
        self._idle: dict[Place, list[Conversation]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends the body and reads the answer's beginning. Raises `Broken`, `Blocked`, `ProxyFailed`, `InvalidField`
        for a header of more than one line, and `OSError` for what this machine has run out of.
        """
        if self._closed:
            raise RuntimeError("the connection pool was closed")
        route = self._routes.get(url) or self._route(url)
        message = serialize(route.head, headers, body)
        conversation = self._take(route.place)
        if conversation is None:
            conversation = await self._dialer.dial(route.place, lambda: Conversation(self._loop, self._read_limit))
        answer = None
        try:
            # Once, even if it breaks without a word: an attempt is one POST, and nobody knows what became of it.
            answer = await conversation.ask(message)
            return answer
        finally:
            # Also what was cancelled, broke, or was not read to its end.
            if answer is not None and conversation.fit and not answer.may_precede(message) and not self._closed:
                self._give_back(conversation, route.place)
            else:
                conversation.abort()

    async def close(self) -> None:
        """Closes every connection that is not in use; those in use are closed when they are given back."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for conversations in self._idle.values():
            for conversation in conversations:
                conversation.abort()
        self._idle.clear()
        await self._dialer.close()

    def _take(self, place: Place) -> Conversation | None:
        conversations = self._idle.get(place)
        oldest = self._loop.time() - self._keep_alive_s
        while conversations:
            conversation = conversations.pop()
            if conversation.fit and conversation.idle_since > oldest:
                return conversation
            conversation.close()
        return None

    def _give_back(self, conversation: Conversation, place: Place) -> None:
        conversation.idle_since = self._loop.time()
        self._idle.setdefault(place, []).append(conversation)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._keep_alive_s / 2, self._sweep)

    def _sweep(self) -> None:
        oldest, kept = self._loop.time() - self._keep_alive_s, dict[Place, list[Conversation]]()
        for place, conversations in self._idle.items():
            for conversation in conversations:
                if conversation.fit and conversation.idle_since > oldest:
                    kept.setdefault(place, []).append(conversation)
                else:
                    conversation.close()
        self._idle = kept
        self._sweeping = self._loop.call_later(self._keep_alive_s / 2, self._sweep) if kept else None

    def _route(self, url: URL) -> _Route:
        vet(self._rules, url)
        while len(self._routes) >= ROUTES:
            del self._routes[next(iter(self._routes))]
        host, port = url.raw_host, url.port
        if host is None or port is None:
            raise ValueError("a URL without a host or a port")
        route = self._routes[url] = _Route(Place(host, port, url.scheme == "https"), request_head(url))
        return route
