"""Durations, sizes and ports: what people write is read exactly, and what is printed reads back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.units import (
    format_duration,
    format_ports,
    format_size,
    parse_duration_s,
    parse_ports,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("57ms", 0.057),
        ("5s", 5),
        ("5m", 300),
        ("2h", 7200),
        ("30d", 2_592_000),
        ("1w", 604_800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("90", 90),
        ("0", 0),
        (" 5 s ", 5),
        (7, 7),
        (0.25, 0.25),
    ],
)
def test_durations_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "5 minutes", "5x", "-5s", "5s,5m", "s", "1e3", "nan", "inf", "3651d", "٥s", "5s!", "9" * 500]
)
def test_a_bad_duration_is_refused_with_what_would_be_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration.*(200ms|0 to 3650d)"):
        parse_duration_s(text)


@pytest.mark.parametrize("number", [-1, -0.001, float("nan"), float("inf"), 10**400])
def test_a_number_out_of_range_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_duration_s(number)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.2, "200ms"),
        (0.0005, "0.5ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (60, "1m"),
        (90, "90s"),
        (300, "5m"),
        (3600, "1h"),
        (86400, "24h"),
        (172800, "2d"),
        (2592000, "30d"),
        (1234.5678, "1234.5678s"),
    ],
)
def test_durations_are_printed_in_the_shortest_exact_way(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=3650 * 86400) | st.integers(min_value=0, max_value=3650 * 86400))
def test_a_printed_duration_reads_back(seconds: float) -> None:
    assert parse_duration_s(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("262144", 262144),
        (512, 512),
        ("256KiB", 262144),
        ("256kib", 262144),
        ("1MB", 1_000_000),
        ("1 MiB", 1_048_576),
        ("1.5KiB", 1536),
        ("2GiB", 2 * 1024**3),
    ],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1TB", "1,5MB", "1e3"])
def test_a_bad_size_is_refused_with_what_would_be_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="256KiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_printed_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "ranges", "written"),
    [
        ("80", ((80, 80),), "80"),
        (" 80, 443 ,1024-65535,", ((80, 80), (443, 443), (1024, 65535)), "80,443,1024-65535"),
        ("none", (), "none"),
    ],
)
def test_ports_are_read_and_written(text: str, ranges: tuple[tuple[int, int], ...], written: str) -> None:
    assert parse_ports(text) == ranges
    assert format_ports(ranges) == written
    assert parse_ports(written) == ranges


@pytest.mark.parametrize("text", ["0", "65536", "80-", "-80", "90-80", "http", "80-90-100", "1e3", "80 90", "\u0668"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no port"):
        parse_ports(text)
