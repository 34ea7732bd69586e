"""Which kind an event is of: as it says itself, else by its type, in the settings' words before the built-in ones."""

from collections.abc import Mapping
from types import MappingProxyType

from dispatcher.errors import InvalidField, InvalidSettings
from dispatcher.rules.event_types import check_pattern, patterns_for
from dispatcher.states import EventKind

#: Kinds by type, where the settings say nothing else.
BUILT_IN: Mapping[str, EventKind] = MappingProxyType(
    {
        "job.progress": EventKind.PROGRESS,
        "job.completed": EventKind.TERMINAL,
        "job.failed": EventKind.TERMINAL,
        "job.canceled": EventKind.TERMINAL,
        "job.rejected": EventKind.TERMINAL,
    }
)

#: Types whose kind is remembered; a producer may make up any number of types.
_REMEMBERED = 10_000


class EventKinds:
    """Kinds by event type, from `DISPATCHER_EVENT_KINDS`. Raises `InvalidSettings` for a wrong pattern."""

    def __init__(self, given: Mapping[str, EventKind]) -> None:
        for pattern in given:
            try:
                check_pattern(pattern)
            except InvalidField as error:
                raise InvalidSettings(f"DISPATCHER_EVENT_KINDS: {error.detail}") from None
        self._given = dict(given)
        self._known: dict[str, EventKind] = {}

    def of(self, event_type: str, given: str | None, job_id: str | None) -> EventKind:
        """The kind of an event that says `given` itself; without a job there is nothing but `state`."""
        if job_id is None:
            return EventKind.STATE
        if given is not None:
            return EventKind(given)
        kind = self._known.get(event_type)
        if kind is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            kind = self._known[event_type] = self._by_type(event_type)
        return kind

    def _by_type(self, event_type: str) -> EventKind:
        # The type itself first, then the longest prefix.
        for pattern in reversed(patterns_for(event_type)):
            if pattern in self._given:
                return self._given[pattern]
        return BUILT_IN.get(event_type, EventKind.STATE)
