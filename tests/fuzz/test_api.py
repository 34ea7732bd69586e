"""The API under fire: requests made from its own OpenAPI document, valid and not, alone and in sequences, at a real
`serve`. No 5xx, no status, header or body that the document does not have; what it forbids is refused."""

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.api.client import ADMIN_KEY
from tests.programs import Program, running, running_python

CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = Path(__file__).with_name("hooks.py")
#: The same seed makes the same requests.
SEED = os.environ.get("FUZZ_SEED", "1")
#: The most requests per operation in each phase of the long form.
CASES = os.environ.get("FUZZ_CASES", "300")

#: `dispatcher serve`, but with a budget of wrong keys that does not end: each operation is sent some, and must say 401.
SERVE = """
from dispatcher.api import wrong_keys
from dispatcher.cli.main import main

wrong_keys.ADDRESS_BURST = wrong_keys.OVERALL_BURST = 1_000_000
main(["serve", "--port", "0"])
"""
SERVER = {
    "DISPATCHER_ADMIN_KEY": ADMIN_KEY,
    "DISPATCHER_SECRET_KEY": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
    "DISPATCHER_LOG_FORMAT": "json",
    "DISPATCHER_LOG_LEVEL": "error",
    # Nothing of this is for anybody outside: where a URL leads is not what is asked here.
    "DISPATCHER_TIMEOUT": "1s",
    "DISPATCHER_CONNECT_TIMEOUT": "1s",
}


async def fire(database_url: str, *options: str, longest_wait_s: float, patience_s: float) -> None:
    """Serves, fires, and asserts that neither the attacker nor the server has anything to complain of."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running_python("-c", SERVE, DISPATCHER_DATABASE_URL=database_url, **SERVER)
        )
        attack = await stack.enter_async_context(
            running(
                sys.executable,
                *("-m", "schemathesis.cli", "--config-file", CONFIG, "run", f"{await server.url()}/openapi.json"),
                *("--seed", SEED, "--no-color", *options),
                FUZZ_KEY=ADMIN_KEY,
                FUZZ_LONGEST_WAIT_S=str(longest_wait_s),
                SCHEMATHESIS_HOOKS=str(HOOKS),
            )
        )
        code = await attack.done(patience_s)
    report = "\n".join(attack.lines)
    print(report)
    assert code == 0, report
    assert _faults(server) == []


def _faults(server: Program) -> list[str]:
    return [line for line in server.lines if '"level":"error"' in line]


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("database", "phases"),
    # The database that is stricter about values gets all of them; coverage has the examples among its values.
    [("postgres_url", "coverage"), ("sqlite_url", "examples,fuzzing,stateful")],
)
async def test_no_answer_contradicts_the_document(database: str, phases: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(database)
    await fire(url, "--phases", phases, "--max-examples", "3", longest_wait_s=0.1, patience_s=120)


@pytest.mark.campaign
@pytest.mark.timeout(0)
async def test_no_answer_contradicts_the_document_in_thousands_of_cases(database_url: str) -> None:
    await fire(database_url, "--max-examples", CASES, longest_wait_s=30, patience_s=6 * 3600)
