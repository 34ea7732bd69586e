"""What a route is: the words in which the API's table is written, and what a handler is given and gives back."""

from asyncio import Transport
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from dispatcher.api.auth import Authenticator
from dispatcher.engine.ingest import Ingest
from dispatcher.engine.vitals import Condition
from dispatcher.service import models
from dispatcher.service.job_readers import JobReaders
from dispatcher.service.quotas import Quotas
from dispatcher.states import Scope
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_fields import GivenFields

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT", bound=BaseModel)

#: The tenant of what the admin makes without naming one.
DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Door:
    """What all handlers of one application share."""

    deployment: Deployment
    authenticator: Authenticator
    quotas: Quotas
    registry: CollectorRegistry
    readers: JobReaders
    #: Stores what is published, and has it sent.
    ingest: Ingest
    #: Connections of streams that are being written to, for as long as their client takes.
    writing: set[Transport]
    #: Tells a dispatcher in this process that there is work.
    wake: Callable[[], None]
    #: Asks the dispatcher in this process how it is; null: there is none.
    condition: Callable[[], Condition] | None
    openapi: bytes
    docs: bytes


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request, for an answer that takes a while."""

    #: The header `Last-Event-ID`: what a stream that broke had sent last.
    last_event_id: str | None
    #: It came by a job's link, which vouches for the job.
    by_link: bool
    #: Whether the connection is closed.
    gone: Callable[[], bool]
    #: Asks again whether it may; raises what the request would be answered with now.
    check: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT, QueryT]):
    """One authenticated and validated request."""

    door: Door
    #: Whose things the caller sees; `None` = every tenant's.
    tenant: str | None
    body: BodyT
    query: QueryT
    path: Mapping[str, str]
    idempotency_key: str | None
    accept: str
    client: Client

    @property
    def deployment(self) -> Deployment:
        """What the services work on."""
        return self.door.deployment

    @property
    def owner(self) -> str:
        """Whose the thing becomes that this request makes."""
        return self.tenant or DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that goes out part by part, as fast as the client reads."""

    parts: AsyncGenerator[bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers; bytes go out as they are."""

    status: int
    content: models.Answer | Stream | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call[Any, Any]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One documented answer of a route."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = "application/json"
    #: A second form of it, for those who accept that.
    stream_type: str | None = None
    #: Its `Location` is this path and the `id` of what was made.
    located: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path: how it is served, and how it is documented."""

    method: str
    path: str
    tag: str
    #: The operation's name, for generated clients.
    operation: str
    summary: str
    handler: Handler
    query: type[BaseModel]
    answers: Mapping[int, Answer]
    description: str = ""
    #: What a key must be allowed for it; null: no key is wanted at all.
    scope: Scope | None
    #: It shows all tenants at once, so that a tenant's key does not open it, whatever its scopes.
    of_deployment: bool = False
    body: type[GivenFields] | None = None
    #: A body that the documentation shows.
    example: Mapping[str, object] = field(default_factory=dict)
    #: Reads a body that must not pass through plain JSON; others are read as `body`.
    read: Callable[[bytes], object] | None = None
    #: The largest body in bytes; `None` = an event's, by `DISPATCHER_MAX_PAYLOAD`.
    body_limit: int | None = 1024 * 1024
    #: A link of the job that its path names opens it too, from a page of any origin.
    linked: bool = False
    #: It reads the header `Idempotency-Key`.
    idempotent: bool = False
    #: Statuses of problems that this route has beside those of every route.
    problems: tuple[int, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))
