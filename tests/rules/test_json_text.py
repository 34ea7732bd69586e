"""JSON as text: nothing changes but white space, and nothing invalid gets through."""

import enum
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.json_text import DEEPEST, compact, encode, members, same

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_reads_back(value: Any) -> None:
    text = encode(value)

    assert json.loads(text) == value
    assert compact(text) == text


@given(VALUES, st.integers(min_value=0, max_value=4), st.booleans())
def test_compacting_takes_only_white_space_away(value: Any, indent: int, ascii_only: bool) -> None:
    spread = json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=(" , ", " :\t"))
    tight = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"))

    assert compact(spread) == compact(f" \r\n{spread}\t".encode()) == tight


@pytest.mark.parametrize(
    "text",
    [
        "1.0",
        "1.10",
        "1e5",
        "1E+5",
        "-0",
        "-0.0",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        "1e999",
        "1" * 5000,
        '{"a":1,"a":2}',
        '"\\u2028\\/\\ud83d\\ude00"',
        '"\u2028😀\x7f"',
        '"\\u0000"',
    ],
)
def test_numbers_texts_and_duplicate_keys_stay_as_written(text: str) -> None:
    assert compact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "[1,]",
        '{"a":1,}',
        "{'a':1}",
        "{a:1}",
        "nul",
        "1 2",
        "01",
        "+1",
        ".5",
        "1.",
        "NaN",
        "Infinity",
        "-Infinity",
        '"\n"',
        '"\x00"',
        '"a"\x00',
        '"\\x41"',
        "\ufeff{}",
        "\u00a01",
        '"\\ud800"',
        '"\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xff\xfe1\x00",
        "// x\n1",
    ],
)
def test_what_is_no_json_is_refused_by_field(text: str | bytes) -> None:
    with pytest.raises(InvalidField) as refused:
        compact(text, "payload")
    assert refused.value.field == "payload"


@given(st.text(alphabet='{}[]",:\\0123eE+-. \n\tutrufalsenul\x01/é', max_size=25))
def test_it_reads_what_pythons_own_parser_reads_and_nothing_else(text: str) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        expected = json.loads(text, parse_constant=refuse)
        json.dumps(expected, ensure_ascii=False).encode()
    except ValueError:
        with pytest.raises(InvalidField):
            compact(text)
        return
    assert json.loads(compact(text)) == expected


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [-float("inf")],
        {1: "a"},
        {None: "a"},
        {"a": [{True: 1}]},
        ({"a": ({2.5: 1},)},),
        {("a",): 1},
        b"bytes",
        {"set"},
        datetime(2026, 1, 2, tzinfo=UTC),
        Decimal("1.10"),
        Colour.RED,
        "\ud800",
        {"\udfff": 1},
        pytest.param(10**5000, id="huge"),
        object(),
    ],
)
def test_a_value_that_json_would_have_to_change_is_refused(value: object) -> None:
    with pytest.raises(InvalidField, match=r"^data: "):
        encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)

    with pytest.raises(InvalidField):
        encode(circle)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 5_000, 200_000])
def test_nesting_beyond_the_limit_is_refused_in_text(depth: int) -> None:
    with pytest.raises(InvalidField, match="nested too deeply"):
        compact("[" * depth + "]" * depth)
    with pytest.raises(InvalidField):
        compact('{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 100_000])
def test_nesting_beyond_the_limit_is_refused_in_values(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(InvalidField, match="nested too deeply"):
        encode(value)
    while value:
        value = value.pop()


def test_nesting_up_to_the_limit_and_any_number_of_brackets_beside_each_other_are_fine() -> None:
    deep = "[" * DEEPEST + "]" * DEEPEST
    wide = "[" + ",".join(['{"[[[":"{{{\\""}'] * DEEPEST) + "]"

    assert compact(deep) == deep
    assert compact(wide) == wide
    assert same(deep, deep + " ")


def test_members_are_raw_and_the_last_of_duplicates() -> None:
    assert members('{"a": 1.10, "b": {"c" : 1}, "a":2.0, "\\u0063": null}') == {
        "a": b"2.0",
        "b": b'{"c" : 1}',
        "c": b"null",
    }
    assert members("{}") == {}


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null", "{", ""])
def test_other_json_has_no_members(text: str) -> None:
    assert members(text) is None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ('{"a":1,"b":[1,2]}', '{ "b": [1, 2], "a": 1 }'),
        ("1", "1.0"),
        ("100", "1e2"),
        ("1E400", "10e399"),
        ('"é"', '"\\u00e9"'),
        ("1" * 5000, " " + "1" * 5000),
        ('{"a":1,"a":2}', '{"a": 1.0, "a": 2}'),
        ("0", "-0"),
    ],
)
def test_the_same_content_in_another_notation_is_the_same(left: str, right: str) -> None:
    assert same(left, right)
    assert same(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1", "true"),
        ("0", "false"),
        ('{"a":1}', '{"a":true}'),
        ("null", "false"),
        ("1", '"1"'),
        ("[1,2]", "[2,1]"),
        ("9007199254740993", "9007199254740992"),
        ("0.1", "0.10000000000000000001"),
        ("1" * 5000, "1" * 4999 + "2"),
        ("1e400", "1e401"),
        ("1e99999999999", "1e99999999998"),
        ('{"a":1,"a":2}', '{"a":2}'),
        ('{"a":1,"a":2}', '{"a":2,"a":1}'),
        ('{"a":null}', "{}"),
        ('["number",1]', "1"),
    ],
)
def test_other_content_is_not_the_same(left: str, right: str) -> None:
    assert not same(left, right)
    assert not same(right, left)


@given(VALUES, VALUES)
def test_same_agrees_with_equality_of_values(left: Any, right: Any) -> None:
    assert same(encode(left), encode(left))
    if same(encode(left), encode(right)):
        assert left == right
