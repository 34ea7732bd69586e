"""A page's shell commands, run by a real bash: variables and functions of one block are there in the next."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fork_client, fork_server
from tests.docs.pages import Block

#: What pages call that a machine may not have; `jq` has a stand-in here.
_PROGRAMS = ("curl", "openssl")

_PATIENCE_S = 120.0

_JQ = """#!{python}
import json, re, sys
_, option, path, *file = sys.argv
assert option == "-r"
value = json.load(open(file[0]) if file else sys.stdin)
for name, place in re.findall(r"[.](\\w+)|\\[(\\d+)\\]", path):
    value = value[name] if name else value[int(place)]
print(value)
"""


class Shell:
    """One session in a directory, with the command `dispatcher` of this environment."""

    def __init__(self, directory: Path, replaced: dict[str, str] | None = None, **environment: str) -> None:
        self._directory = directory
        #: What stands in the page for what is only known here: `127.0.0.1:8080` and the like.
        self._replaced = replaced or {}
        programs = directory / "programs"
        programs.mkdir()
        (programs / "jq").write_text(_JQ.format(python=sys.executable))
        (programs / "jq").chmod(0o755)
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        # Some thirty commands of a page are thirty processes.
        client = [sys.executable, "-S", fork_client.__file__, fork_server.address(), "-m", "dispatcher"]
        (programs / "dispatcher").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, client))} "$@"\n')
        (programs / "dispatcher").chmod(0o755)
        self._environment = os.environ | environment | {"PATH": os.pathsep.join(path)}
        self._state = directory / "programs" / "state.sh"
        self._state.touch()

    async def run(self, block: Block) -> str:
        """What the block's commands print. Fails when one of them fails."""
        for program in _PROGRAMS:
            if re.search(rf"\b{program}\b", block.text) and shutil.which(program) is None:
                pytest.skip(f"{block.place} needs {program}, which is not installed here")
        text = block.text
        for written, here in self._replaced.items():
            text = text.replace(written, here)
        script = (
            f'set -euo pipefail\nset -a\n. "{self._state}"\n{text}\n{{ export -p; declare -fp; }} > "{self._state}"\n'
        )
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said, complained = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"{block.place}: {complained.decode()}\n{said.decode()}"
        return said.decode()
