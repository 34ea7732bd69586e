"""JSON as text: what a producer wrote is what a receiver gets.

Numbers stay as written and duplicate keys stay; only insignificant white space goes.
"""

import json
import re
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from dispatcher.errors import InvalidField

#: The deepest nesting accepted. Parsers differ in what they survive (and ours in how much of the stack is left),
#: so that a text accepted at publish must stay readable at every later step.
DEEPEST = 500

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_BRACKET = re.compile(r"[\[\]{}]")


def encode(value: object, field: str = "data") -> str:
    """The compact JSON text of a Python value. Raises `InvalidField` for what JSON cannot say without changing it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        raise _lone_surrogate(field) from None
    except RecursionError:
        raise _too_deep(field) from None
    except (TypeError, ValueError) as error:
        raise InvalidField(
            field,
            f"cannot be written as JSON ({error}); give objects with text keys, lists, texts, finite numbers,"
            " booleans and null",
        ) from None
    _refuse_coerced_keys(value, field)
    _refuse_depth(text, field)
    return text


def compact(text: str | bytes, field: str = "data") -> str:
    """The same JSON without insignificant white space. Raises `InvalidField` for what is not valid UTF-8 JSON."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        formatted = msgspec.json.format(text, indent=-1)
    except UnicodeDecodeError as error:
        raise InvalidField(field, f"is not valid UTF-8 (byte {error.start}); send UTF-8") from None
    except UnicodeEncodeError:
        raise _lone_surrogate(field) from None
    except msgspec.DecodeError as error:
        raise InvalidField(field, f"is not valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep(field) from None
    _refuse_depth(formatted, field)
    return formatted


def members(text: str) -> dict[str, bytes] | None:
    """The members of an object, each value as its raw text (the last of duplicates); None for other JSON."""
    try:
        return {name: bytes(raw) for name, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def read(text: str | None, kind: Any, otherwise: Any) -> Any:
    """The value of a JSON text of ours; `otherwise` where there is none, or it is no such value."""
    try:
        return otherwise if text is None else msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return otherwise


def raw(text: str) -> msgspec.Raw | None:
    """The text as a part of a larger JSON text, unchanged; None for what is no JSON."""
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def quoted(text: str) -> bytes:
    """A text as a JSON string."""
    return msgspec.json.encode(text)


def moment(value: datetime) -> bytes:
    """A moment as a JSON string: the text of `clock.rfc3339`, made ten times faster."""
    return msgspec.json.encode(value.astimezone(UTC))


def same(left: str, right: str) -> bool:
    """Whether two valid JSON texts say the same: members in any order, numbers by value, duplicate keys counted."""
    return left == right or _comparable(left) == _comparable(right)


def _comparable(text: str) -> Any:
    return json.loads(
        text,
        parse_int=_number,
        parse_float=_number,
        object_pairs_hook=_object,
    )


def _number(text: str) -> tuple[str, object]:
    # A tuple, because Python says that True equals 1, and JSON does not.
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 9:
        return "number", text
    value = Decimal(f"{mantissa}e{exponent}" if exponent else mantissa)
    return "number", value


def _object(pairs: list[tuple[str, Any]]) -> Any:
    names = Counter(name for name, _ in pairs)
    if len(names) == len(pairs):
        return dict(pairs)
    return {name: ("several", [value for other, value in pairs if other == name]) for name in names}


def _refuse_coerced_keys(value: object, field: str) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise InvalidField(field, f"has the key {key!r}, and JSON's keys are texts; write it as a text")
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)


def _refuse_depth(text: str, field: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise _too_deep(field)


def _too_deep(field: str) -> InvalidField:
    return InvalidField(field, f"is nested too deeply; {DEEPEST} levels are the most")


def _lone_surrogate(field: str) -> InvalidField:
    return InvalidField(field, "contains half a surrogate pair, which UTF-8 cannot say; send whole characters")
