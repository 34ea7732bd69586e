"""The wheel works in an empty venv outside the checkout, as `pip install` gives it to people."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from dispatcher.version import VERSION

_ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.packaging


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel; what the wheel needs comes from the tests' own venv, so that no network is needed."""
    directory = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    python = directory / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # A .pth inside a directory that a .pth names is not read: the checkout stays off the path.
    [site] = directory.glob("lib/python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory


def _run(venv: Path, *command: str, timeout_s: float = 30) -> str:
    """Its standard output. Fails with its standard error when the exit code is not 0."""
    home = venv.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_carries_every_file_of_the_package_and_its_migrations(wheel: Path) -> None:
    expected = {
        str(prefix / path.relative_to(source))
        for source, prefix in (
            (_ROOT / "dispatcher", Path("dispatcher")),
            (_ROOT / "migrations", Path("dispatcher/migrations")),
        )
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith("outbox_dispatcher-")}
        names = archive.namelist()
    assert packed == expected
    assert {"dispatcher/py.typed", "dispatcher/migrations/env.py"} <= packed
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_installed_package_is_the_wheels(venv: Path) -> None:
    where = _run(venv, "python", "-c", "import dispatcher; print(dispatcher.__file__)").strip()
    assert Path(where).is_relative_to(venv)


def test_the_installed_command_tells_its_version(venv: Path) -> None:
    assert VERSION in _run(venv, "dispatcher", "--version")


def test_the_installed_command_lists_the_settings(venv: Path) -> None:
    assert "DISPATCHER_DATABASE_URL" in _run(venv, "dispatcher", "settings")


def test_the_installed_command_migrates_a_database_without_a_checkout(venv: Path, tmp_path: Path) -> None:
    _run(venv, "dispatcher", "migrate")
    assert (tmp_path / "dispatcher.db").is_file()
    _run(venv, "dispatcher", "migrate", "--check")


@pytest.mark.timeout(180)
def test_the_installed_command_shows_the_demo(venv: Path) -> None:
    _run(venv, "dispatcher", "demo", timeout_s=150)
