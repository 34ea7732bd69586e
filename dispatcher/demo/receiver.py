"""The client's side: verifies every webhook that comes in, takes each event once, and fails when told to.

`POST /hooks/{name}` receives; `PUT /outage` and `DELETE /outage` break and mend it; `GET /arrivals` tells what came.
"""

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256

from aiohttp import web

from dispatcher import VerificationError, verify
from dispatcher.demo.serving import serve


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to a hook, as it was seen and answered."""

    hook: str
    id: str
    type: str
    job_id: str
    sequence: int
    attempt: int
    replay: bool
    #: Whether an event with this id was taken before.
    duplicate: bool
    answer: int
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request whose signature did not hold, and why."""

    hook: str
    detail: str


@dataclass(slots=True)
class Outage:
    """What is answered 500 while it lasts: events of one type on one hook."""

    hook: str
    type: str
    #: How many requests more; null = until it is mended.
    times: int | None


class Receiver:
    """A client's webhook receiver. It remembers in memory; a real one stores an event before it answers 200."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._taken: set[str] = set()
        self._arrivals: list[Arrival] = []
        self._refusals: list[Refusal] = []
        self._outage: Outage | None = None

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/hooks/{name}", self.receive),
                web.get("/arrivals", self.show),
                web.put("/outage", self.break_down),
                web.delete("/outage", self.mend),
            ]
        )
        return app

    async def receive(self, request: web.Request) -> web.Response:
        hook, body = request.match_info["name"], await request.read()
        try:
            verify(body, request.headers, self._secret)
        except VerificationError as error:
            self._refusals.append(Refusal(hook, str(error)))
            return web.json_response({"detail": str(error)}, status=401)
        event = json.loads(body)
        duplicate = event["id"] in self._taken
        answer = 500 if self._is_down_for(hook, event["type"]) else 200
        if answer == 200:
            # Here a real receiver acts on the event, unless it is a duplicate.
            self._taken.add(event["id"])
        self._arrivals.append(
            Arrival(
                hook=hook,
                id=request.headers["webhook-id"],
                type=event["type"],
                job_id=event["job_id"],
                sequence=event["sequence"],
                attempt=int(request.headers["x-delivery-attempt"]),
                replay=request.headers.get("x-delivery-replay") == "true",
                duplicate=duplicate,
                answer=answer,
                body_sha256=sha256(body).hexdigest(),
            )
        )
        return web.json_response({}, status=answer)

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "arrivals": [asdict(arrival) for arrival in self._arrivals],
                "refusals": [asdict(refusal) for refusal in self._refusals],
            }
        )

    async def break_down(self, request: web.Request) -> web.Response:
        self._outage = Outage(**await request.json())
        return web.json_response(asdict(self._outage))

    async def mend(self, request: web.Request) -> web.Response:
        self._outage = None
        return web.json_response({})

    def _is_down_for(self, hook: str, type: str) -> bool:
        outage = self._outage
        if outage is None or (outage.hook, outage.type) != (hook, type) or outage.times == 0:
            return False
        if outage.times is not None:
            outage.times -= 1
        return True


if __name__ == "__main__":
    serve(Receiver(os.environ["WEBHOOK_SECRET"]).application())
