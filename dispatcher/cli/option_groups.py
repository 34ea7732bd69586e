"""Options that several commands take together: declared once, as the fields of a TypedDict."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, TypeVar, get_type_hints

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def taking(group: type[Any], *, before: str = "tenant") -> Callable[[CommandT], CommandT]:
    """Makes what a command takes as `**` of this TypedDict its options; they stand `before` the one of that name."""

    def taken(command: CommandT) -> CommandT:
        options = [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=declared)
            for name, declared in get_type_hints(group, include_extras=True).items()
        ]
        its = [own for own in signature(command).parameters.values() if own.kind is not Parameter.VAR_KEYWORD]
        place = [own.name for own in its].index(before)
        # Typer reads a command's options off its signature.
        command.__dict__["__signature__"] = signature(command).replace(parameters=its[:place] + options + its[place:])
        return command

    return taken
