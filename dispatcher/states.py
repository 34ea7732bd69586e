"""The closed sets of words that tables, JSON, CLI, logs and metrics share.

pending ──claim──▶ sending ──2xx──▶ delivered
   ▲  ▲               │
   │  └──retry, due───┤  lease lost, interrupted, retry
   │       later      ├──given up──▶ dead ──▶ dead_letters
   │                  └──failed, and its right is gone──▶ cancelled, superseded
   │
   └──── redelivery ◀── delivered, dead, cancelled, superseded
pending ──▶ cancelled, superseded, dead   (nothing was sent)
"""

from enum import StrEnum
from typing import TypeVar

WordT = TypeVar("WordT", bound=StrEnum)


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    #: Waits to be claimed: at once, for its lane, or until `due_at`.
    PENDING = "pending"
    #: Claimed under a lease; its POST may be on the wire.
    SENDING = "sending"
    #: A 2xx was received.
    DELIVERED = "delivered"
    #: Given up; there is a dead letter.
    DEAD = "dead"
    #: Newer progress, its job's end or the next heartbeat made it pointless.
    SUPERSEDED = "superseded"
    #: Its endpoint was disabled or deleted, or an operator cancelled it.
    CANCELLED = "cancelled"


class Scope(StrEnum):
    """What an API key may do."""

    #: Publish events.
    PUBLISH = "publish"
    #: Register and change endpoints, callbacks and their secrets; redeliver, cancel and discard what is for them.
    ENDPOINTS = "endpoints"
    #: Read all but secrets, and make links to jobs.
    READ = "read"
    #: Everything, of every tenant: keys and quotas too.
    ADMIN = "admin"


class EventKind(StrEnum):
    """What an event says about its job, and so what becomes of its deliveries that wait."""

    #: Every one is delivered, in order.
    STATE = "state"
    #: The latest wins: while one waits, a newer one of the same job and type takes its place.
    PROGRESS = "progress"
    #: Settles the job: progress that waits or comes later is superseded.
    TERMINAL = "terminal"


class Reason(StrEnum):
    """Why a delivery is dead, cancelled or superseded, or an endpoint disabled."""

    #: Its retry schedule was used up.
    EXHAUSTED = "exhausted"
    #: The endpoint answered 410.
    GONE = "gone"
    #: The endpoint failed for too long and was disabled.
    FAILING = "failing"
    #: The endpoint answered 413.
    TOO_LARGE = "too_large"
    #: The egress guard refuses the URL, or an address of its host.
    BLOCKED = "blocked"
    #: The stored event or secret cannot be read, or the delivery's tenant is not its endpoint's.
    UNREADABLE = "unreadable"
    #: The endpoint was deleted.
    ENDPOINT_DELETED = "endpoint_deleted"
    #: The endpoint's `expires_at` has passed.
    EXPIRED = "expired"
    #: A newer event took its place.
    SUPERSEDED = "superseded"
    #: An operator or API call did it.
    OPERATOR = "operator"


class AttemptError(StrEnum):
    """What went wrong with an attempt, whatever the library called it."""

    #: The whole exchange took longer than `timeout_s`.
    TIMEOUT = "timeout"
    #: No connection within the connect timeout.
    CONNECT_TIMEOUT = "connect_timeout"
    #: The receiver's host refused the connection, or cannot be reached.
    CONNECTION_REFUSED = "connection_refused"
    #: The connection broke before the whole answer was read.
    CONNECTION_RESET = "connection_reset"
    #: The host name could not be resolved.
    DNS = "dns"
    #: The TLS handshake or certificate check failed.
    TLS = "tls"
    #: The egress guard refused the URL or an address; nothing was sent.
    BLOCKED = "blocked"
    #: An answer came and its status is not 2xx.
    HTTP_STATUS = "http_status"
    #: What came back is not HTTP.
    PROTOCOL = "protocol"
    #: A line of the answer's head is longer than 8 KiB, or its heads longer than 256 KiB.
    BODY_TOO_LARGE = "body_too_large"
    #: The process ended or lost its lease; the outcome is unknown.
    INTERRUPTED = "interrupted"
    #: A fault of ours, or of the egress proxy; the log says what.
    INTERNAL = "internal"


class EndpointStatus(StrEnum):
    """Whether an endpoint matches new events and is sent what waits."""

    #: Matches and is sent.
    ENABLED = "enabled"
    #: Matches and keeps; nothing is sent.
    PAUSED = "paused"
    #: Matches nothing; what waited was cancelled.
    DISABLED = "disabled"


class Profile(StrEnum):
    """How an event becomes a body."""

    #: `{type, id, timestamp, job_id?, sequence?, data}`
    STANDARD = "standard"
    #: data's keys at the top level beside the event's own.
    FLAT = "flat"
    #: data itself.
    RAW = "raw"
    #: An A2A push notification: a `StreamResponse` of A2A 1.0.
    A2A_1_0 = "a2a-1.0"
    #: A CloudEvent in structured content mode: one JSON object.
    CLOUDEVENTS = "cloudevents"
    #: A CloudEvent in binary content mode: data as the body, everything else in `ce-` headers.
    CLOUDEVENTS_BINARY = "cloudevents-binary"


class SignatureVersion(StrEnum):
    """A kind of token in `webhook-signature`, in the order in which they stand there."""

    #: HMAC-SHA256 with the secret that the receiver shares.
    V1 = "v1"
    #: ed25519, which the receiver verifies with a public key.
    V1A = "v1a"


class RunState(StrEnum):
    """Where a bulk redelivery stands."""

    #: Still putting deliveries back.
    RUNNING = "running"
    #: All matched deliveries were put back.
    DONE = "done"
    #: Stopped by a call; what was put back stays.
    CANCELLED = "cancelled"


def read_word(words: type[WordT], stored: str, otherwise: WordT) -> WordT:
    """A stored word; one that is not among them reads as `otherwise`.

    A later release may have written it, or somebody by hand, and one such row keeps no list from being read.
    """
    try:
        return words(stored)
    except ValueError:
        return otherwise
