"""The verdict: what the outcome of one POST means for its delivery and for its endpoint."""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.rules.retry import RetryPolicy
from dispatcher.states import AttemptError, Reason

#: From this many interruptions in a row on, each counts as a failure: a delivery that kills its sender must not
#: live for ever.
INTERRUPTIONS_FORGIVEN = 4

#: So many refusals of the egress proxy in a row use up no retry: nobody can tell whether it means itself or the
#: receiver, and a delivery to a receiver that is gone must not live for ever either.
PROXY_FORGIVEN = 4
#: So many failures in a row of a proxy that does not even try, about three days of them, use up one.
PROXY_DOWN_FORGIVEN = 870
#: How long what the egress proxy did not let through waits for the next attempt, at first and at most, in seconds.
PROXY_FIRST_S = 5.0
PROXY_LONGEST_S = 300.0

_OVERLOAD_STATUSES = frozenset({429, 502, 503, 504})
_OVERLOAD_ERRORS = frozenset({AttemptError.TIMEOUT, AttemptError.CONNECT_TIMEOUT, AttemptError.CONNECTION_REFUSED})
_REFUSED_STATUSES = frozenset({400, 401, 403})
_FINAL_STATUSES: dict[int | None, Reason] = {410: Reason.GONE, 413: Reason.TOO_LARGE}


class Outcome(StrEnum):
    """What an attempt means for its delivery."""

    #: A 2xx: done.
    DELIVERED = "delivered"
    #: Failed, due again later.
    RETRY = "retry"
    #: Failed, given up.
    DEAD = "dead"
    #: Outcome unknown, due again at once, or nothing sent since the egress proxy failed, due again soon; no retry used.
    INTERRUPTED = "interrupted"
    #: Failed, and nothing is lost with it: the next of its kind takes its place.
    DROPPED = "dropped"


class Exchange(Struct, frozen=True, gc=False):
    """What came of one POST."""

    status: int | None
    #: None exactly when the status is 2xx.
    error: AttemptError | None
    retry_after_s: float | None = None
    #: The start of the answer.
    excerpt: str = ""
    #: It says nothing about the receiver's host, only about what the endpoint showed it, or had nothing to show.
    of_endpoint_alone: bool = False
    #: Where the egress proxy failed: so many of these in a row use up no retry.
    forgiven: int = 0


class Verdict(Struct, frozen=True, gc=False):
    """What follows from an exchange."""

    outcome: Outcome
    #: Why it is dead, or dropped.
    reason: Reason | None
    #: Seconds until it is due again, where it is.
    delay_s: float | None
    #: Seconds for which its endpoint asked to be left alone, capped.
    pause_endpoint_s: float | None
    #: Whether it counts towards its endpoint's back-off.
    backs_off: bool
    #: Why its endpoint is to be disabled.
    disables: Reason | None


#: What nearly every exchange comes to.
_DELIVERED = Verdict(Outcome.DELIVERED, None, None, None, False, None)


def judge(
    exchange: Exchange, *, failures: int, interruptions: int, policy: RetryPolicy, retry_after_max_s: float
) -> Verdict:
    """The verdict on an exchange.

    `failures`: those of this round before it; `interruptions`: those in a row just before it.
    """
    if exchange.retry_after_s is None and _succeeded(exchange):
        return _DELIVERED
    outcome, reason, delay_s = _outcome(exchange, failures, interruptions, policy)
    pause_s = None if exchange.retry_after_s is None else min(exchange.retry_after_s, retry_after_max_s)
    if outcome is Outcome.RETRY and delay_s is not None and pause_s is not None:
        delay_s = max(delay_s, pause_s)
    return Verdict(
        outcome=outcome,
        reason=reason,
        delay_s=delay_s,
        pause_endpoint_s=pause_s,
        backs_off=outcome is not Outcome.DELIVERED
        and (exchange.status in _OVERLOAD_STATUSES or exchange.error in _OVERLOAD_ERRORS),
        disables=Reason.GONE if reason is Reason.GONE else None,
    )


def drop_failed(verdict: Verdict) -> Verdict:
    """The verdict on what is sent once only: a failure, its own or the egress proxy's, drops it. What it says about its
    endpoint stands.
    """
    put_off = verdict.outcome is Outcome.INTERRUPTED and bool(verdict.delay_s)
    if not put_off and verdict.outcome not in (Outcome.RETRY, Outcome.DEAD):
        return verdict
    return replace(verdict, outcome=Outcome.DROPPED, reason=Reason.SUPERSEDED, delay_s=None)


def refused_request(status: int | None) -> bool:
    """Whether a status says that the receiver refused the request itself, as it does with a wrong secret."""
    return status in _REFUSED_STATUSES


def _succeeded(exchange: Exchange) -> bool:
    return exchange.error is None and exchange.status is not None and 200 <= exchange.status < 300


def _outcome(
    exchange: Exchange, failures: int, interruptions: int, policy: RetryPolicy
) -> tuple[Outcome, Reason | None, float | None]:
    status, error = exchange.status, exchange.error
    if _succeeded(exchange):
        return Outcome.DELIVERED, None, None
    if error is AttemptError.BLOCKED:
        return Outcome.DEAD, Reason.BLOCKED, None
    if interruptions < exchange.forgiven:
        return Outcome.INTERRUPTED, None, min(PROXY_FIRST_S * 2.0**interruptions, PROXY_LONGEST_S)
    if error is AttemptError.INTERRUPTED and interruptions < INTERRUPTIONS_FORGIVEN:
        return Outcome.INTERRUPTED, None, 0.0
    if status in _FINAL_STATUSES:
        return Outcome.DEAD, _FINAL_STATUSES[status], None
    delay_s = policy.delay_s(failures + 1)
    if delay_s is None:
        return Outcome.DEAD, Reason.EXHAUSTED, None
    return Outcome.RETRY, None, delay_s
