"""Whose things a caller sees, and the ids by which they are named: every statement of the service goes through here."""

from sqlalchemy import Select, and_, select, true, union_all
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.errors import InvalidField, NotFound
from dispatcher.ids import Kind, row_id
from dispatcher.service.fields import TENANT_LENGTH
from dispatcher.store.tables import Tables


def within(tenant: str | None, column: ColumnElement[str]) -> ColumnElement[bool]:
    """The rows that a caller of `tenant` sees; `None`, an administrator, sees all."""
    return true() if tenant is None else column == tenant


def named_row(kind: Kind, field: str, identifier: str) -> int:
    """The row number that a filter names. Raises `InvalidField` for what cannot be an id of this kind."""
    try:
        return row_id(kind, identifier)
    except NotFound:
        raise InvalidField(field, f"is no id of this kind; they look like {kind.value}_0123456789abc") from None


def text_filter(field: str, text: str) -> str:
    """A text to look for. Raises `InvalidField` for what no row can hold."""
    if "\x00" in text or len(text) > 255:
        raise InvalidField(field, "must be a text of up to 255 characters without NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidField(field, "must be valid Unicode") from None
    return text


def tenant_name(tenant: str) -> str:
    """A tenant's name, as a path has it. Raises `InvalidField` for what is none."""
    if not 1 <= len(text_filter("tenant", tenant)) <= TENANT_LENGTH:
        raise InvalidField("tenant", f"must be 1 to {TENANT_LENGTH} characters")
    return tenant


def events_of_job(tables: Tables, job_id: str, tenant: str | None) -> Select[tuple[int]]:
    """The event rows of a job: those that are numbered, and those that wait to be."""
    jobs, numbered, queue, events = tables.jobs.c, tables.job_events.c, tables.fanout_queue.c, tables.events.c
    both = union_all(
        select(numbered.event_row)
        .join_from(tables.job_events, tables.jobs, jobs.row_id == numbered.job_row)
        .where(jobs.job_id == job_id, within(tenant, jobs.tenant)),
        select(queue.event_row)
        .join_from(tables.fanout_queue, tables.events, and_(events.row_id == queue.event_row, events.job_id == job_id))
        .where(within(tenant, queue.tenant)),
    ).subquery()
    return select(both.c.event_row)
