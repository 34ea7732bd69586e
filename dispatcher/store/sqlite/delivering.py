"""The statements of the fan-out on SQLite that make deliveries: who gets which event."""

from collections.abc import Callable

from dispatcher.store.job_callbacks import after_end
from dispatcher.store.sqlite.progress import due_as_head

#: An endpoint `e` that is sent to, or will be; `?3` is now.
_TAKES_PART = """
    e.status IN ('enabled', 'paused') AND e.deleted_at IS NULL AND (e.expires_at IS NULL OR e.expires_at > ?3)
"""


def plain(name: Callable[[str], str]) -> str:
    """Makes the deliveries of events without jobs.

    `?1`: their rows, by tenant and type; `?2`: tenant and patterns of each of these; `?3`: now.
    """
    return f"""
        WITH target AS MATERIALIZED (
            SELECT DISTINCT k.key AS kind, e.row_id AS endpoint_row, e.tenant
            FROM json_each(?2) k CROSS JOIN json_each(k.value, '$[1]') p
            CROSS JOIN {name("subscriptions")} s ON s.tenant = json_extract(k.value, '$[0]')
                AND s.pattern = p.value AND s.job_id = ''
            CROSS JOIN {name("endpoints")} e ON e.row_id = s.endpoint_row
            WHERE {_TAKES_PART}
        )
        INSERT INTO {name("deliveries")} (event_row, endpoint_row, tenant, created_at, updated_at)
        SELECT event.value, target.endpoint_row, target.tenant, ?3, ?3
        FROM json_each(?1) kind CROSS JOIN json_each(kind.value) event CROSS JOIN target ON target.kind = kind.key
        ORDER BY event.value
    """


def of_jobs(name: Callable[[str], str], *, progress: bool) -> str:
    """Makes the deliveries of events of which some have jobs; with `progress`, those columns too that nothing else has.

    `?1`: event, tenant, type, job, its row, sequence; with `progress` the job's row again and what superseded it;
    `?2`: types and their patterns; `?3`: now.
    """
    given = matched = columns = values = ""
    born_waiting = "true"
    same_lane = "endpoint_row, lane"
    if progress:
        given = ", json_extract(value, '$[6]') AS progress_of, json_extract(value, '$[7]') AS superseded_by"
        matched = ", event.progress_of, event.superseded_by"
        columns = ", progress_of, superseded_by, state, reason, due_at"
        values = f"""
            , progress_of, superseded_by, CASE WHEN superseded_by IS NULL THEN 'pending' ELSE 'superseded' END,
            CASE WHEN superseded_by IS NOT NULL THEN 'superseded' END,
            CASE WHEN superseded_by IS NULL AND NOT waiting THEN {due_as_head(name, "fresh", "?3", "NULL")} END
        """
        born_waiting = "superseded_by IS NULL"
        same_lane = "endpoint_row, lane, superseded_by IS NULL"
    return f"""
        WITH event AS MATERIALIZED (
            SELECT json_extract(value, '$[0]') AS event_row, json_extract(value, '$[1]') AS tenant,
                   json_extract(value, '$[2]') AS type, json_extract(value, '$[3]') AS job_id,
                   json_extract(value, '$[4]') AS lane, json_extract(value, '$[5]') AS sequence{given}
            FROM json_each(?1)
        ),
        matching AS MATERIALIZED (
            SELECT json_extract(value, '$[0]') AS type, json_extract(value, '$[1]') AS pattern FROM json_each(?2)
        ),
        match AS MATERIALIZED (
            SELECT DISTINCT event.event_row, e.row_id AS endpoint_row, event.tenant, event.sequence,
                   CASE WHEN e.ordered THEN event.lane END AS lane{matched}, e.catch_up
            FROM event
            CROSS JOIN matching ON matching.type = event.type
            CROSS JOIN {name("subscriptions")} s ON s.tenant = event.tenant AND s.pattern = matching.pattern
                AND s.job_id IN ('', event.job_id)
            CROSS JOIN {name("endpoints")} e ON e.row_id = s.endpoint_row
            WHERE {_TAKES_PART}
        )
        INSERT INTO {name("deliveries")}
            (event_row, endpoint_row, tenant, lane, sequence, waiting, created_at, updated_at{columns})
        SELECT event_row, endpoint_row, tenant, lane, sequence, waiting, ?3, ?3{values}
        FROM (
            SELECT match.*, {born_waiting} AND lane IS NOT NULL AND (
                row_number() OVER (PARTITION BY {same_lane} ORDER BY sequence) > 1
                OR EXISTS (
                    SELECT 1 FROM {name("deliveries")} d
                    WHERE d.lane = match.lane AND d.endpoint_row = match.endpoint_row
                      AND d.lane IS NOT NULL AND d.state IN ('pending', 'sending') AND NOT d.late
                )
                OR (catch_up AND {after_end(name)})
            ) AS waiting FROM match
        ) fresh ORDER BY event_row
    """
