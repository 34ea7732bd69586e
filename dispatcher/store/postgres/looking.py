"""What a claim on PostgreSQL knows of an endpoint, of a delivery, and of what is in flight.

Parts of the claim's function, which use its variables.
"""

from collections.abc import Callable

from dispatcher.rules.bodies import SOURCE_MARK, WITH_SOURCE
from dispatcher.store.hot import CLOCK_SLACK_S

#: How long a claim may take that another process's count of what is in flight has not seen yet, in seconds.
UNSEEN_S = 1.0

_WITH_SOURCE = ", ".join(f"'{profile}'" for profile in WITH_SOURCE)
#: The same as `frozen_profile`, of an endpoint `e`.
FROZEN = f"CASE WHEN e.profile IN ({_WITH_SOURCE}) THEN e.profile || '{SOURCE_MARK}' || event_source ELSE e.profile END"

CLAIMABLE = "d.state = 'pending' AND d.due_at IS NULL AND NOT d.waiting"


def _elapsed_s(tokens_at: str) -> str:
    """Seconds in which tokens were earned; more than enough of them where the clock was set back since."""
    return f"""CASE WHEN {tokens_at} > at_time + interval '{CLOCK_SLACK_S} s' THEN 1e9
                    ELSE GREATEST(0, extract(epoch FROM at_time - COALESCE({tokens_at}, 'epoch'))) END"""


def tokens(most: str, rate: str, bucket: str) -> str:
    """What a limit of `rate` a second leaves by now of the tokens in `bucket`, of which it holds `most`."""
    return f"""LEAST({most}, COALESCE({bucket}.tokens, {most}) + {rate} * {_elapsed_s(f"{bucket}.tokens_at")})"""


#: What an endpoint `e`, of which `s` is known, may be sent at most by itself, and whether it may be sent anything.
CAP = "LEAST(COALESCE(e.max_in_flight, endpoint_cap), s.ramp, floor(s.takes)::int)"
# LEAST and GREATEST pass over nulls, so an endpoint without a limit is told apart first.
TOKENS = f"""CASE WHEN e.rate_limit IS NOT NULL THEN {tokens("GREATEST(e.rate_limit, 1)", "e.rate_limit", "s")} END"""
OPEN = """e.status = 'enabled' AND e.deleted_at IS NULL AND (s.paused_until IS NULL OR s.paused_until <= at_time)"""


def second_look(name: Callable[[str], str]) -> str:
    """By place of those `considered` what they may be sent by now; `same`: and they are what the scan has said."""
    return f"""
        SELECT c.k AS place, e.version = versions[c.k] AND {OPEN} AS same, {CAP} AS cap, {TOKENS} AS tokens
        FROM unnest(considered) AS c(k)
        LEFT JOIN LATERAL (
            SELECT e.status, e.deleted_at, e.rate_limit, e.version, e.max_in_flight
            FROM {name("endpoints")} e WHERE e.row_id = chosen[c.k] LIMIT 1) e ON true
        LEFT JOIN LATERAL (
            SELECT s.paused_until, s.ramp, s.takes, s.tokens, s.tokens_at FROM {name("endpoint_state")} s
            WHERE s.endpoint_row = chosen[c.k] LIMIT 1) s ON true
    """


def from_on(fresh: str, row: str) -> str:
    """Deliveries `d` of one endpoint and of this class, from this row on; none where it is null."""
    # Bounds, where an equality would say the same: then the order is that of the claim index alone. With it the
    # planner may go by the primary key, through all that was ever delivered.
    return f"(d.fresh, d.row_id) >= ({fresh}, {row}) AND d.fresh <= {fresh}"


def flight(name: Callable[[str], str]) -> str:
    """By endpoint how many are in flight, how many of them in this process, and since when the oldest is; with whom
    they are to be counted together."""
    return f"""
        SELECT f.*, e.destination_row, e.tenant, e.job_id IS NOT NULL AS callback
        FROM (
            SELECT d.endpoint_row, min(d.updated_at) AS since, (count(*) FILTER (WHERE lives))::int AS n,
                   (count(*) FILTER (WHERE lives AND d.dispatcher_row = claimer))::int AS mine
            FROM (
                SELECT d.endpoint_row, d.updated_at, d.dispatcher_row, NOT EXISTS (
                    SELECT FROM unnest(ended_rows, ended_attempts) AS ended(row_id, attempt)
                    WHERE ended.row_id = d.row_id AND ended.attempt = d.attempts) AS lives
                FROM {name("deliveries")} d WHERE d.state = 'sending' AND d.updated_at >= flight_since
            ) d GROUP BY d.endpoint_row
        ) f
        LEFT JOIN LATERAL (
            SELECT e.destination_row, e.tenant, e.job_id FROM {name("endpoints")} e
            WHERE e.row_id = f.endpoint_row LIMIT 1) e ON true
    """
