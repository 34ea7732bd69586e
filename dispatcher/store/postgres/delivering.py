"""The statements of the fan-out on PostgreSQL that make deliveries: who gets which event, and what it supersedes."""

from collections.abc import Callable

from dispatcher.store.job_callbacks import after_end
from dispatcher.store.postgres.progress import due_as_head

_NOW = "COALESCE($9, clock_timestamp())"


def deliver(name: Callable[[str], str]) -> str:
    """Makes the deliveries of a batch of events.

    `$1` to `$6`: event, tenant, type, job, its row, sequence; `$7`, `$8`: types and their patterns; `$9`: now; `$10`,
    `$11`: the job's row again where it carries progress, and the event that has superseded it.
    """
    return _matching(name) + _insert(name)


def deliver_and_supersede(name: Callable[[str], str]) -> str:
    """The same, and it ends what waits and is older than `$12` to `$15`: job's row, type (null: any), event, sequence.

    Answers how many deliveries were made and superseded, the lanes and endpoints of those that were there before, and
    whether one was put off.
    """
    # Newer progress takes the place of older progress only where it is delivered itself.
    return f"""
        {_matching(name)},
        made AS ({_insert(name)} RETURNING superseded_by, due_at),
        obsolete AS (
            SELECT DISTINCT ON (d.row_id) d.row_id, s.event_row
            FROM unnest($12::text::bigint[], $13::text::text[], $14::text::bigint[], $15::text::bigint[])
                AS s(job_row, type, event_row, sequence)
            JOIN {name("deliveries")} d ON d.progress_of = s.job_row AND d.sequence < s.sequence
                AND d.state = 'pending' AND d.progress_of IS NOT NULL
            JOIN {name("events")} e ON e.row_id = d.event_row
            WHERE s.type IS NULL OR (s.type = e.type AND EXISTS (
                SELECT FROM match m WHERE m.event_row = s.event_row AND m.endpoint_row = d.endpoint_row))
            ORDER BY d.row_id, s.sequence
        ),
        superseded AS (
            UPDATE {name("deliveries")} d
            SET state = 'superseded', reason = 'superseded', superseded_by = o.event_row, due_at = NULL,
                updated_at = {_NOW}
            FROM obsolete o WHERE d.row_id = o.row_id AND d.state = 'pending'
            RETURNING d.lane, d.endpoint_row
        )
        SELECT (SELECT count(*) FROM made), count(*) + (SELECT count(superseded_by) FROM made),
               array_agg(lane) FILTER (WHERE lane IS NOT NULL),
               array_agg(endpoint_row) FILTER (WHERE lane IS NOT NULL), (SELECT count(due_at) > 0 FROM made)
        FROM superseded
    """


def _matching(name: Callable[[str], str]) -> str:
    # By type and not by event, so far as that goes: thousands of events have a few types. Each look is a subquery
    # of its own, which goes by its index whatever the planner thinks of the batch.
    the_endpoint = f"""
        CROSS JOIN LATERAL (
            SELECT e.ordered, e.catch_up FROM {name("endpoints")} e
            WHERE e.row_id = s.endpoint_row AND e.status IN ('enabled', 'paused') AND e.deleted_at IS NULL
                AND (e.expires_at IS NULL OR e.expires_at > {_NOW})
            LIMIT 1
        ) e
    """
    made = """event.event_row, {endpoint}.endpoint_row, event.tenant, event.sequence,
              CASE WHEN {options}.ordered THEN event.lane END AS lane, event.progress_of, event.superseded_by,
              {options}.catch_up"""
    return f"""
        WITH event AS MATERIALIZED (
            -- Without the numbers the planner would take them for ten, and compare each with each.
            SELECT * FROM ROWS FROM (
                unnest($1::text::bigint[], $2::text::text[], $3::text::text[], $4::text::text[],
                       $5::text::bigint[], $6::text::bigint[], $10::text::bigint[], $11::text::bigint[]),
                generate_series(1, cardinality($1::text::bigint[])))
            AS event(event_row, tenant, type, job_id, lane, sequence, progress_of, superseded_by, number)
        ),
        pattern AS MATERIALIZED (
            SELECT * FROM ROWS FROM (
                unnest($7::text::text[], $8::text::text[]), generate_series(1, cardinality($7::text::text[])))
            AS pattern(type, pattern, number)
        ),
        target AS MATERIALIZED (
            SELECT DISTINCT kind.tenant, kind.type, s.endpoint_row, e.ordered, e.catch_up
            FROM (SELECT DISTINCT tenant, type FROM event) kind JOIN pattern ON pattern.type = kind.type
            CROSS JOIN LATERAL (
                SELECT s.endpoint_row FROM {name("subscriptions")} s
                WHERE s.tenant = kind.tenant AND s.pattern = pattern.pattern AND s.job_id = '' OFFSET 0
            ) s {the_endpoint}
        ),
        match AS (
            SELECT {made.format(endpoint="target", options="target")}
            FROM event JOIN target ON target.tenant = event.tenant AND target.type = event.type
            UNION
            SELECT {made.format(endpoint="s", options="e")}
            FROM (SELECT * FROM event WHERE job_id <> '') event JOIN pattern ON pattern.type = event.type
            CROSS JOIN LATERAL (
                SELECT s.endpoint_row FROM {name("subscriptions")} s
                WHERE s.tenant = event.tenant AND s.pattern = pattern.pattern AND s.job_id = event.job_id
                OFFSET 0
            ) s {the_endpoint}
        )
    """


def _insert(name: Callable[[str], str]) -> str:
    return f"""
        INSERT INTO {name("deliveries")}
            (event_row, endpoint_row, tenant, lane, sequence, progress_of, superseded_by, state, reason, waiting,
             due_at, created_at, updated_at)
        SELECT event_row, endpoint_row, tenant, lane, sequence, progress_of, superseded_by,
               CASE WHEN superseded_by IS NULL THEN 'pending' ELSE 'superseded' END,
               CASE WHEN superseded_by IS NOT NULL THEN 'superseded' END, waiting,
               CASE WHEN superseded_by IS NULL AND NOT waiting
                    THEN {due_as_head(name, "fresh", _NOW, "NULL::timestamptz")} END,
               {_NOW}, {_NOW}
        FROM (
            SELECT match.*, superseded_by IS NULL AND lane IS NOT NULL AND (
                row_number() OVER (PARTITION BY endpoint_row, lane, superseded_by IS NULL ORDER BY sequence) > 1
                OR (
                    -- Not EXISTS, for which the planner would read all lanes that live, where very much waits in them.
                    SELECT d.row_id FROM {name("deliveries")} d
                    WHERE d.lane = match.lane AND d.endpoint_row = match.endpoint_row
                      AND d.lane IS NOT NULL AND d.state IN ('pending', 'sending') AND NOT d.late LIMIT 1
                ) IS NOT NULL
                OR (catch_up AND {after_end(name)})
            ) AS waiting FROM match
        ) fresh ORDER BY event_row
    """
