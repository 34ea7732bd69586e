"""The gate itself: what it needs on a machine, what it runs, and what it installs."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parent.parent
_LOCKS = ["requirements.lock", "requirements-runtime.lock", "requirements-build.lock"]


def _pinned(name: str) -> dict[str, str]:
    pins = re.findall(r"^([a-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", (_ROOT / name).read_text(), re.MULTILINE)
    return dict(pins)


@pytest.mark.parametrize("name", _LOCKS)
def test_a_lock_file_names_versions_and_hashes_and_no_place_to_get_them(name: str) -> None:
    text = (_ROOT / name).read_text()
    assert "://" not in text
    assert "index" not in {word.strip("-") for word in text.split() if word.startswith("--")}
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("==" in entry.splitlines()[0] and "--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", _LOCKS[1:])
def test_the_small_lock_files_pin_what_the_large_one_does(name: str) -> None:
    assert _pinned(name).items() <= _pinned("requirements.lock").items()


def test_the_lock_files_satisfy_what_the_project_declares() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    runtime = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["postgres"]
    development = [entry for entry in groups["dev"] if isinstance(entry, str)]
    for declared, lock in (
        (runtime, "requirements-runtime.lock"),
        (runtime + development, "requirements.lock"),
        (groups["build"], "requirements-build.lock"),
    ):
        pins = _pinned(lock)
        for requirement in map(Requirement, declared):
            assert pins.get(canonicalize_name(requirement.name), "0") in requirement.specifier, (
                f"{requirement}: `make lock`"
            )


def _machine(directory: Path, present: Sequence[str]) -> dict[str, str]:
    """The environment of a machine that has these programs; its `make` and `apt-get` only tell how they were called."""
    for name in present:
        program = shutil.which(name)
        assert program, f"{name} is needed to imitate a machine"
        (directory / name).symlink_to(program)
    for name in ("make", "apt-get"):
        if name not in present:
            (directory / name).write_text(f'#!/bin/sh\necho "{name} $* in $PWD"\n')
            (directory / name).chmod(0o755)
    return {"PATH": str(directory), "HOME": "/nonexistent"}


def _ci(environment: dict[str, str], elsewhere: Path) -> list[str]:
    done = subprocess.run([_ROOT / ".ci" / "run"], env=environment, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_ci_runs_make_check_and_nothing_else_where_everything_is_there(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    environment = _machine(programs, ["bash", "dirname"])
    (programs / "python3").write_text("#!/bin/sh\nexit 0\n")
    (programs / "python3").chmod(0o755)
    assert _ci(environment, tmp_path) == [f"make check in {_ROOT}"]


def test_ci_installs_a_missing_python_first(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    lines = _ci(_machine(programs, ["bash", "dirname"]), tmp_path)
    assert lines[0].startswith("apt-get update")
    assert " python3 python3-venv " in lines[1]
    assert lines[2:] == [f"make check in {_ROOT}"]


def test_the_gate_runs_its_steps_in_order() -> None:
    makefile = (_ROOT / "Makefile").read_text()
    [steps] = re.findall(r"^check: (.*?)\s+##", makefile, re.MULTILINE)
    assert steps.split() == ["format-check", "lint", "imports", "types", "test", "demo"]
    assert ".NOTPARALLEL:" in makefile


def test_make_says_what_to_do_where_there_is_no_python(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    environment = _machine(programs, ["make", "sh"])
    done = subprocess.run(
        ["make", "-C", _ROOT, "setup", f"VENV={tmp_path}/venv"],
        env=environment | {"PATH": str(programs)},
        executable=programs / "make",
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "no Python 3.11 or later" in done.stderr
    assert "apt-get install python3" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_every_public_target_is_explained_by_make_help() -> None:
    environment = {"PATH": os.environ["PATH"]}
    shown = subprocess.run(["make", "-C", _ROOT, "help"], env=environment, capture_output=True, text=True, check=True)
    for target in (
        "setup",
        "demo",
        "test",
        "check",
        "format",
        "chaos",
        "bench",
        "docs",
        "wheel",
        "sbom",
        "audit",
        "lock",
    ):
        assert re.search(rf"^ +make {target} ", shown.stdout, re.MULTILINE)
