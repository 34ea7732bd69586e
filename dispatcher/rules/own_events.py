"""What the dispatcher tells its users by itself: types under `webhook.`, and the data of each.

Nothing in them is secret: URLs as they are shown, no headers, no answers of receivers.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from dispatcher.rules.event_types import RESERVED_PREFIX
from dispatcher.rules.json_text import encode
from dispatcher.states import Reason

#: An endpoint was disabled by the dispatcher.
ENDPOINT_DISABLED = f"{RESERVED_PREFIX}endpoint_disabled"
#: A delivery was given up.
DELIVERY_DEAD = f"{RESERVED_PREFIX}delivery_dead"
#: An endpoint was sent nothing for its `heartbeat_s`.
HEARTBEAT = f"{RESERVED_PREFIX}heartbeat"

#: Why an endpoint is disabled that nobody asked to be: what others are told of.
DISABLED_BY_ITSELF = frozenset({Reason.FAILING, Reason.GONE})

#: Deaths at one endpoint that are told one by one: so many at once, and then one each so often.
DEATHS_AT_ONCE = 10
DEATHS_EVERY = timedelta(seconds=6)
#: How far ahead an endpoint's deaths can be told of: the next has to wait when it has come so far.
DEATHS_AHEAD = DEATHS_AT_ONCE * DEATHS_EVERY

#: Clocks differ by less.
CLOCK_SLACK = timedelta(minutes=1)


def deaths_to_tell(told_until: datetime | None, now: datetime, waiting: int) -> tuple[int, datetime]:
    """How many of an endpoint's waiting deaths are told one by one now, and what to remember it by.

    `told_until` is what was remembered last; it is ahead of now by as much as was told faster than one by one.
    """
    # Further ahead than it can be: the clock was set back since.
    known = told_until is not None and now < told_until <= now + DEATHS_AHEAD
    begin = told_until if told_until is not None and known else now
    told = min(waiting, (now + DEATHS_AHEAD - begin) // DEATHS_EVERY)
    return told, begin + told * DEATHS_EVERY


def endpoint_disabled(*, endpoint_id: str, url_shown: str, job_id: str | None, reason: Reason) -> str:
    """The data of `webhook.endpoint_disabled`; `job_id` is that of a callback."""
    return encode({"endpoint_id": endpoint_id, "url": url_shown, "job_id": job_id, "reason": reason})


def delivery_dead(
    *,
    endpoint_id: str,
    url_shown: str,
    dead_letter_id: str,
    delivery_id: str,
    event_id: str | None,
    event_type: str,
    job_id: str | None,
    reason: str,
    attempts: int,
    last_status: int | None,
    last_error: str | None,
    more: int,
) -> str:
    """The data of `webhook.delivery_dead`; `more` others of this endpoint died that no event of their own tells of."""
    return encode(
        {
            "endpoint_id": endpoint_id,
            "url": url_shown,
            "dead_letter_id": dead_letter_id,
            "delivery_id": delivery_id,
            "event_id": event_id,
            "type": event_type,
            "job_id": job_id,
            "reason": reason,
            "attempts": attempts,
            "last_status": last_status,
            "last_error": last_error,
            "more": more,
        }
    )


def heartbeat(*, endpoint_id: str, heartbeat_s: float) -> str:
    """The data of `webhook.heartbeat`; another one follows when nothing else was sent for `heartbeat_s`."""
    return encode({"endpoint_id": endpoint_id, "heartbeat_s": heartbeat_s})


def heartbeat_due_at(since: Iterable[datetime | None], now: datetime, heartbeat_s: float) -> datetime:
    """When silence will have lasted for `heartbeat_s`, where the latest of `since` ended it; now, where none did.

    What lies far ahead was noted before the clock was set back, and says nothing.
    """
    known = [min(moment, now) for moment in since if moment is not None and moment <= now + CLOCK_SLACK]
    return max(known) + timedelta(seconds=heartbeat_s) if known else now
