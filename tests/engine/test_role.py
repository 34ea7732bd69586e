"""The dispatching role on a SQLite file: one holder at a time, whatever the file is called, and none after a death."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher import AlreadyRunning
from dispatcher.engine.role import Role
from dispatcher.store.keyring import key_file

_HOLD = """
import sys
from pathlib import Path
from dispatcher.engine.role import Role
role = Role(Path(sys.argv[1]))
role.take()
print("taken", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_who_holds_it_and_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    first, second = Role(tmp_path / "a.db"), Role(tmp_path / "a.db")
    first.take()
    with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()}\b"):
        second.take()
    first.give_back()
    first.give_back()
    second.take()
    second.give_back()


def test_two_files_are_two_roles(tmp_path: Path) -> None:
    first, second = Role(tmp_path / "a.db"), Role(tmp_path / "b.db")
    first.take()
    second.take()
    second.give_back()
    first.give_back()


def test_another_name_of_the_same_file_is_the_same_role_and_has_the_same_key(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "elsewhere").mkdir()
    alias = tmp_path / "elsewhere" / "alias.db"
    alias.symlink_to(tmp_path / "a.db")
    first = Role(tmp_path / "a.db")
    first.take()
    with pytest.raises(AlreadyRunning):
        Role(alias).take()
    first.give_back()
    assert key_file(alias).open(key_file(tmp_path / "a.db").seal("x", "url"), "url") == "x"


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "a.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        role = Role(tmp_path / "a.db")
        with pytest.raises(AlreadyRunning, match=rf"pid {holder.pid}\b"):
            role.take()
        holder.kill()
        holder.wait()
    role.take()
    role.give_back()
