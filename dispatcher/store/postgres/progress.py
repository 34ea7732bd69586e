"""What is special about progress, as expressions of PostgreSQL statements: its end, and its interval."""

from collections.abc import Callable


def took_its_place(name: Callable[[str], str], d: str) -> str:
    """The event that took the place of the delivery `d`, which is under way: its job's end, or newer progress.

    Null for what is no progress. True as long as the job's row is locked.
    """
    newer = f"""
        SELECT n.event_row FROM {name("deliveries")} n JOIN {name("events")} ne ON ne.row_id = n.event_row
        WHERE n.progress_of = {d}.progress_of AND n.endpoint_row = {d}.endpoint_row AND n.sequence > {d}.sequence
          AND ne.type = (SELECT de.type FROM {name("events")} de WHERE de.row_id = {d}.event_row)
    """
    return f"""
        CASE WHEN {d}.progress_of IS NOT NULL THEN COALESCE(
            (SELECT j.settled_by FROM {name("jobs")} j WHERE j.row_id = {d}.progress_of),
            ({newer} AND n.state = 'pending' AND n.progress_of IS NOT NULL ORDER BY n.sequence DESC LIMIT 1),
            ({newer} AND n.progress_of IS NOT NULL AND n.attempts > 0 ORDER BY n.sequence DESC LIMIT 1)
        ) END
    """


def due_as_head(name: Callable[[str], str], d: str, now: str, due_at: str) -> str:
    """When the delivery `d` is due that may go now: `due_at`, or later where progress has an interval to keep."""
    free_at = "a.attempted_at + e.progress_interval_s * interval '1 second'"
    return f"""
        CASE WHEN {d}.progress_of IS NULL THEN {due_at} ELSE COALESCE((
            SELECT GREATEST({due_at}, {free_at})
            FROM {name("endpoints")} e CROSS JOIN LATERAL (
                SELECT b.attempted_at FROM {name("deliveries")} b
                WHERE b.progress_of = {d}.progress_of AND b.endpoint_row = {d}.endpoint_row
                  AND b.progress_of IS NOT NULL AND b.attempts > 0 ORDER BY b.sequence DESC LIMIT 1
            ) a
            WHERE e.row_id = {d}.endpoint_row AND e.progress_interval_s IS NOT NULL AND {free_at} > {now}
        ), {due_at}) END
    """
