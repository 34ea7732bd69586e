"""Every error this package raises on purpose, grouped by who must act.

DispatcherError
├── CallerError                 the caller sent something wrong: change the call
│   ├── InvalidField            a field's value; names the field and the remedy  (HTTP 422)
│   │   ├── InvalidFields       several of them at once
│   │   └── TooLargeField       more than is taken                            (HTTP 413)
│   ├── IdempotencyConflict     same idempotency key or id, other content        (HTTP 409)
│   ├── Conflict                the thing's state does not allow it              (HTTP 409)
│   ├── NotFound                unknown, or another tenant's                     (HTTP 404)
│   ├── OverQuota               the tenant has as much as it may have             (HTTP 422)
│   ├── TooMany                 more than is taken now; says when to try again    (HTTP 429)
│   │   ├── TooManyReaders      as many wait for jobs' events as may
│   │   ├── TooManyEvents       a tenant publishes faster than its quota
│   │   └── TooManyWrongKeys    somebody tries one API key after another
│   └── VerificationError       a received webhook whose signature does not hold
├── OperatorError               settings or surroundings are wrong: change them
│   ├── ConfigurationError      a setting or an environment variable
│   │   └── InvalidSettings     settings whose values are refused, all at once
│   ├── SchemaError             the database's schema is old, foreign or missing
│   └── AlreadyRunning          another process holds the dispatching role
└── StoreUnavailable            the database did not answer; the work can be tried again
"""

from dataclasses import dataclass


class DispatcherError(Exception):
    """The root: catch this to catch everything that this package raises on purpose."""


class CallerError(DispatcherError):
    """The call is wrong and would be wrong again."""


class InvalidField(CallerError, ValueError):
    """A field's value is refused; `field` names it, the message says what would be accepted."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail

    @property
    def problems(self) -> "tuple[FieldProblem, ...]":
        return (FieldProblem(self.field, self.detail),)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field that was refused: its dotted name and what would be accepted."""

    field: str
    detail: str


class InvalidFields(InvalidField):
    """Several fields are refused at once; `problems` has them all."""

    def __init__(self, problems: "tuple[FieldProblem, ...]") -> None:
        first = problems[0]
        super().__init__(first.field, first.detail)
        self._problems = problems
        self.args = ("; ".join(f"{problem.field}: {problem.detail}" for problem in problems),)

    @property
    def problems(self) -> "tuple[FieldProblem, ...]":
        return self._problems


class TooLargeField(InvalidField):
    """A field's value is larger than is taken."""


class IdempotencyConflict(CallerError):
    """An event with this idempotency key or id exists already, with other content."""


class Conflict(CallerError):
    """The state of the thing does not allow this."""


class NotFound(CallerError):
    """There is no such thing, or it belongs to another tenant."""


class OverQuota(CallerError):
    """The tenant has as many as its quota lets it have."""


class TooMany(CallerError):
    """More than is taken now; the same call may be made again after `retry_after_s` seconds."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManyReaders(TooMany):
    """As many readers wait for jobs' events in this process as it takes."""


class TooManyEvents(TooMany):
    """A tenant publishes faster than its quota allows."""


class TooManyWrongKeys(TooMany):
    """Wrong API keys come faster than anybody mistypes."""


class VerificationError(CallerError):
    """A received webhook does not verify; the message says which part and why."""


class OperatorError(DispatcherError):
    """Settings or surroundings are wrong; the message says what to do."""


class ConfigurationError(OperatorError):
    """A setting is missing or wrong."""


class InvalidSettings(ConfigurationError):
    """Settings whose values are refused; the message names all of them."""


class SchemaError(OperatorError):
    """The database's schema is missing, older than this code, or not ours."""


class AlreadyRunning(OperatorError):
    """Another process dispatches on this database, and this database allows one only."""


class StoreUnavailable(DispatcherError):
    """The database did not answer, also after retries."""
