"""The key ring: what is sealed opens with the right key for the right purpose, and with nothing else."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import ConfigurationError
from dispatcher.store.keyring import KeyRing, Unreadable, key_file

OLD, NEW = KeyRing((b"o" * 32,)), KeyRing((b"n" * 32, b"o" * 32))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(plain: str) -> None:
    sealed = OLD.seal(plain, "secret")
    assert OLD.open(sealed, "secret") == plain
    assert OLD.seal(plain, "secret") != sealed
    assert len(plain) < 4 or plain.encode() not in sealed


def test_an_added_key_seals_and_the_older_one_still_opens() -> None:
    assert NEW.open(OLD.seal("x", "url"), "url") == "x"
    with pytest.raises(Unreadable, match="DISPATCHER_SECRET_KEY"):
        OLD.open(NEW.seal("x", "url"), "url")


def test_what_was_sealed_for_one_column_does_not_open_in_another() -> None:
    with pytest.raises(Unreadable):
        OLD.open(OLD.seal("x", "url"), "secret")


def test_what_was_sealed_for_one_owner_does_not_open_for_another() -> None:
    with pytest.raises(Unreadable):
        OLD.open(OLD.seal("x", "url", 1), "url", 2)


def test_what_is_rewrapped_opens_with_the_new_key_alone_and_its_content_was_not_touched() -> None:
    sealed = OLD.seal("a secret", "secret", 7)
    rewrapped = NEW.rewrap(sealed)
    alone = KeyRing(NEW.keys[:1])
    assert alone.open(rewrapped, "secret", 7) == "a secret"
    body = len("a secret") + 16
    assert rewrapped[-body:] == sealed[-body:]
    assert rewrapped[:-body] != sealed[:-body]
    with pytest.raises(Unreadable):
        OLD.open(rewrapped, "secret", 7)
    with pytest.raises(Unreadable):
        alone.rewrap(sealed)


def test_a_value_says_which_key_wraps_it_and_nothing_about_the_key() -> None:
    [key_id] = OLD.key_ids
    assert OLD.seal("x", "url")[1:9] == key_id
    assert OLD.keys[0] not in OLD.seal("x", "url")
    assert NEW.key_ids[1] == key_id


@given(st.integers(0, 1000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    sealed = bytearray(OLD.seal("a secret", "secret"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(Unreadable):
        OLD.open(bytes(sealed), "secret")


@given(st.binary(max_size=80))
def test_garbage_is_unreadable(garbage: bytes) -> None:
    with pytest.raises(Unreadable):
        OLD.open(garbage, "secret")


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    database = tmp_path / "dispatcher.db"
    sealed = key_file(database).seal("x", "url")
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert key_file(database).open(sealed, "url") == "x"
    assert "k" * 3 not in repr(KeyRing((b"k" * 32,)))


def test_a_damaged_key_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    key_file(tmp_path / "dispatcher.db")
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="backup"):
        key_file(tmp_path / "dispatcher.db")
