"""Packages from npm for the tests that need Node; where they cannot be had, those are skipped and say why."""

import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

_EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "receivers" / "express" / "package.json"

#: What the Express example asks for.
PACKAGES = tuple(f"{name}@{version}" for name, version in json.loads(_EXAMPLE.read_text())["dependencies"].items())

_PATIENCE_S = 40


def node_modules() -> Path:
    """A directory `node_modules` with `PACKAGES`; skips the test, with the reason, where it cannot be had."""
    directory, reason = _installed()
    if directory is None:
        pytest.skip(reason)
    return directory


@cache
def _installed() -> tuple[Path | None, str]:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return None, "Node and npm are not installed here"
    name = f"dispatcher-tests-{os.getuid()}-npm-{sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}"
    kept = Path(tempfile.gettempdir()) / name
    if kept.is_dir():
        return kept / "node_modules", ""
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as fresh:
        command = [npm, "install", "--prefix", fresh, "--no-audit", "--no-fund", "--no-package-lock"]
        options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=0", "--fetch-timeout=10000"]
        try:
            subprocess.run(
                [*command, *options, *PACKAGES], cwd=fresh, capture_output=True, timeout=_PATIENCE_S, check=True
            )
        except subprocess.TimeoutExpired:
            return None, f"npm did not get {', '.join(PACKAGES)} within {_PATIENCE_S} s"
        except subprocess.CalledProcessError as error:
            return None, f"npm cannot get {', '.join(PACKAGES)}: {error.stderr.decode(errors='replace').strip()[:300]}"
        try:
            shutil.copytree(fresh, f"{kept}-{os.getpid()}")
            Path(f"{kept}-{os.getpid()}").rename(kept)
        except OSError:
            # Another run was faster; its directory holds the same.
            shutil.rmtree(f"{kept}-{os.getpid()}", ignore_errors=True)
    return kept / "node_modules", ""
