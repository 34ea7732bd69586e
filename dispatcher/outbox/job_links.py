"""job_link: what a producer hands to the page that waits for a job, so that it can follow the job's events."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dispatcher.errors import ConfigurationError, InvalidField
from dispatcher.outbox.callbacks import producer_keyring
from dispatcher.outbox.events import check_text
from dispatcher.outbox.publish import producer_settings
from dispatcher.rules import job_links
from dispatcher.store.urls import parse_database_url


@dataclass(frozen=True, slots=True)
class JobLink:
    """A link to one job's events."""

    #: As `?token=` or as Bearer key.
    token: str = field(repr=False)
    #: Of the job's events with the token, below the address of the API.
    path: str = field(repr=False)
    #: Aware, UTC.
    expires_at: datetime


def job_link(
    job_id: str, *, tenant: str = "default", expires_in: timedelta = timedelta(seconds=job_links.DEFAULT_S)
) -> JobLink:
    """A link that opens this job's events, and nothing else, until it expires: 7 days at most.

    Nothing is stored and no database is asked: it cannot be taken back. Needs `DISPATCHER_SECRET_KEY` (on SQLite:
    the key file beside the database of `DISPATCHER_DATABASE_URL`) in the producer's environment. Raises
    `InvalidField`, `ConfigurationError`.
    """
    check_text("tenant", tenant, 128)
    check_text("job_id", job_id, 255)
    if not isinstance(expires_in, timedelta):
        raise InvalidField("expires_in", f"must be a timedelta, not {type(expires_in).__name__}")
    job_links.check_expires_in("expires_in", expires_in.total_seconds())
    _check_key()
    expires_at = (datetime.now(UTC) + expires_in).replace(microsecond=0)
    token = job_links.issue(producer_keyring().keys, tenant, job_id, expires_at)
    return JobLink(token, job_links.path_of(job_id, token), expires_at)


def _check_key() -> None:
    # Else a key of nobody's would be made beside a database that is not there, and no dispatcher would take the link.
    settings = producer_settings()
    file = parse_database_url(settings.database_url).file
    if not settings.names_keys and file is not None and not file.exists():
        raise ConfigurationError(
            f"DISPATCHER_SECRET_KEY is not set, and there is no database {file} with a key file beside it; set the key"
            " that the dispatcher has"
        )
