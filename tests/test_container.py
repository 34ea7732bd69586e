"""The container's files, as far as they can be tried without a container runtime."""

import json
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import create_subprocess_exec
from pathlib import Path

import pytest
from yarl import URL

from dispatcher.settings import Settings, environment_name
from tests.receiver import Receiver

_ROOT = Path(__file__).resolve().parent.parent
_DOCKERFILE = (_ROOT / "Dockerfile").read_text()
_FINAL_STAGE = _DOCKERFILE.rsplit("\nFROM ", 1)[1]


def _health_command() -> list[str]:
    match = re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", _FINAL_STAGE, re.MULTILINE)
    assert match, "the Dockerfile's final stage has no HEALTHCHECK in exec form"
    command: list[str] = json.loads(match[1])
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


async def _health(port: int) -> int:
    process = await create_subprocess_exec(
        *_health_command(), env={"DISPATCHER_PORT": str(port)}, stderr=subprocess.DEVNULL
    )
    return await process.wait()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
async def test_the_health_command_believes_healthz(receiver: Receiver, status: int, healthy: bool) -> None:
    receiver.answers("/healthz", status)
    assert (await _health(URL(receiver.url()).port or 0) == 0) is healthy
    [request] = receiver.requests
    assert (request.method, request.path) == ("GET", "/healthz")


async def test_the_health_command_fails_where_nothing_listens() -> None:
    async with Receiver() as gone:
        port = URL(gone.url()).port or 0
    assert await _health(port) != 0


#: Tells of every file that the process opens to write.
_TELL_TALE = """
import os, sys

def tell(event, given):
    if event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if not isinstance(given[0], int):
            os.write(2, b"writes " + os.fsencode(given[0]) + b"\\n")

sys.addaudithook(tell)
"""


async def test_the_containers_command_becomes_healthy_stops_cleanly_and_writes_into_its_volume_alone(
    tmp_path: Path,
) -> None:
    match = re.search(r"^CMD (\[.*\])$", _FINAL_STAGE, re.MULTILINE)
    assert match
    program, *arguments = json.loads(match[1])
    environment = dict(re.findall(r"\b(DISPATCHER_[A-Z_]+)=(\S+)", _FINAL_STAGE))
    assert environment["DISPATCHER_HOST"] == "0.0.0.0"
    environment |= {
        "DISPATCHER_HOST": "127.0.0.1",
        "DISPATCHER_PORT": "0",
        "DISPATCHER_DATABASE_URL": environment["DISPATCHER_DATABASE_URL"].replace("//data/", f"/{tmp_path}/"),
        # In the image everything is compiled.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(tmp_path),
    }
    (tmp_path / "sitecustomize.py").write_text(_TELL_TALE)
    process = await create_subprocess_exec(
        Path(sys.executable).parent / program,
        *arguments,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        # Log lines come on the same stream.
        port = 0
        async for line in process.stdout:
            if served := re.match(rb"Serving on http://127\.0\.0\.1:(\d+)", line):
                port = int(served[1])
                break
        assert await _health(port) == 0
        assert (tmp_path / "dispatcher.db").is_file()
        process.send_signal(signal.SIGTERM)
        _, said = await process.communicate()
        assert process.returncode == 0
        written = {Path(line[7:].decode()) for line in said.splitlines() if line.startswith(b"writes ")}
        assert {path.parent for path in written} == {tmp_path}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_the_container_runs_without_root_and_keeps_its_data_in_a_volume() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", _FINAL_STAGE, re.MULTILINE)
    assert user
    assert int(user[1]) > 0
    assert int(user[2]) > 0
    assert re.search(r"^VOLUME /data$", _FINAL_STAGE, re.MULTILINE)
    assert "sqlite+aiosqlite:////data/" in _FINAL_STAGE


def test_compose_gives_the_dispatcher_no_more_than_it_needs() -> None:
    compose = (_ROOT / "compose.yaml").read_text()
    shared = compose.split("x-dispatcher: &dispatcher\n", 1)[1].split("\n\n", 1)[0]
    for line in (
        "read_only: true",
        "tmpfs: [/tmp]",
        "cap_drop: [ALL]",
        'security_opt: ["no-new-privileges:true"]',
    ):
        assert f"\n  {line}\n" in f"\n{shared}\n"
    services = compose.split("\nservices:\n", 1)[1]
    of_ours = [block for block in re.split(r"\n\n(?=  \w)", services) if "postgres:18" not in block]
    assert len(of_ours) == 3
    for block in of_ours:
        assert "<<: *dispatcher" in block
        assert not re.search(r"read_only|tmpfs|cap_add|privileged|security_opt|user:", block)


def test_both_stages_are_built_on_the_image_that_is_named_once() -> None:
    assert re.findall(r"^FROM (\S+)", _DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert len(re.findall(r"^ARG PYTHON_IMAGE=python:[\w.-]+$", _DOCKERFILE, re.MULTILINE)) == 1


def test_what_the_image_copies_exists_and_is_let_through_by_dockerignore() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", _DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    allowed = {line[1:] for line in (_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied
    for source in copied:
        assert (_ROOT / source).exists()
        assert source in allowed


def test_the_package_is_built_from_what_the_image_copies(tmp_path: Path) -> None:
    # The same step as in the Dockerfile, on the same files and no others.
    for source in re.findall(r"^COPY (?!--from)(.*)$", _DOCKERFILE, re.MULTILINE):
        for name in source.split()[:-1]:
            copy = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
            copy(_ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "wheels"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "wheels").glob("*.whl"))) == 1


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", ".env.example"])
def test_every_setting_that_the_container_files_name_exists(name: str) -> None:
    known = {environment_name(field) for field in Settings.model_fields}
    named = set(re.findall(r"\bDISPATCHER_[A-Z_]+", (_ROOT / name).read_text()))
    assert named
    assert named <= known


def test_compose_asks_for_nothing_that_the_example_of_env_does_not_explain() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", (_ROOT / "compose.yaml").read_text()))
    explained = set(re.findall(r"^(?:# )?([A-Z_]+)=", (_ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked == explained
