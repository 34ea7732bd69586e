"""Where the demo plays: a temporary directory with one SQLite file, three servers on it, and ways to talk to them."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dispatcher
from dispatcher.demo.processes import Server, interruptions_ignored, server
from dispatcher.demo.receiver import Arrival
from dispatcher.demo.screen import CheckFailed, Screen
from dispatcher.rules.secrets import Secret

_LOOK_EVERY_S = 0.03


@dataclass(frozen=True, slots=True)
class Scene:
    """The running servers, and what a client and an operator do with them."""

    screen: Screen
    directory: Path
    environment: Mapping[str, str]
    dispatcher: Server
    agent_api: Server
    receiver: Server
    admin_key: str
    webhook_secret: str
    #: How long something may take before it counts as not happening, in seconds.
    patience_s: float

    def start_job(self, request_id: str, hook: str) -> tuple[int, Any]:
        """The client's request to the agent API: the status and the answer."""
        body = {
            "request_id": request_id,
            "task": "compare two papers",
            "webhook_url": f"{self.receiver.url}/hooks/{hook}",
        }
        url = f"{self.agent_api.url}/jobs"
        status, answer = call("POST", url, {**body, "webhook_secret": self.webhook_secret})
        self.screen.request("POST", url, {**body, "webhook_secret": "***"}, status, json.dumps(answer))
        return status, answer

    def job(self, job_id: str) -> Any:
        """The agent API's own row of a job."""
        return call("GET", f"{self.agent_api.url}/jobs/{job_id}")[1]

    def api(self, path: str) -> Any:
        """What the dispatcher's API answers. Raises `CheckFailed` when it is no 200."""
        status, answer = call("GET", f"{self.dispatcher.url}{path}", key=self.admin_key)
        if status != 200:
            raise CheckFailed(f"the dispatcher answers GET {path}", 200, f"{status}: {answer}")
        return answer

    def break_receiver(self, hook: str, type: str, times: int | None) -> None:
        """From now on the receiver answers 500 to events of this type on this hook: so many times, or null for good."""
        call("PUT", f"{self.receiver.url}/outage", {"hook": hook, "type": type, "times": times})

    def mend_receiver(self) -> None:
        call("DELETE", f"{self.receiver.url}/outage")

    def arrivals(self, hook: str | None = None) -> list[Arrival]:
        """What has come to a hook so far (to all of them)."""
        seen = call("GET", f"{self.receiver.url}/arrivals")[1]["arrivals"]
        return [arrival for arrival in (Arrival(**fields) for fields in seen) if hook in (None, arrival.hook)]

    def refusals(self) -> list[Any]:
        """Requests whose signature did not hold."""
        refused: list[Any] = call("GET", f"{self.receiver.url}/arrivals")[1]["refusals"]
        return refused

    def watch(self, hook: str, count: int, *, after: int = 0) -> list[Arrival]:
        """Shows what comes to a hook until there are `count` arrivals, and gives all of them.

        The first `after` were shown before. Raises `CheckFailed` when they don't come in time.
        """
        deadline = time.monotonic() + self.patience_s
        shown = after
        while True:
            arrived = self.arrivals(hook)
            for arrival in arrived[shown:]:
                self.screen.arrival(arrival)
            shown = len(arrived)
            if shown >= count:
                return arrived
            if time.monotonic() > deadline:
                claim = f"the receiver gets {count} requests at /hooks/{hook}"
                raise CheckFailed(claim, f"{count} within {self.patience_s:g} s", shown)
            time.sleep(_LOOK_EVERY_S)

    def check_soon(self, claim: str, *, expected: object, look: Callable[[], object]) -> None:
        """Shows a claim once it is true. Raises `CheckFailed` when it does not become so in time."""
        deadline = time.monotonic() + self.patience_s
        while (seen := look()) != expected and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        self.screen.check(claim, expected=expected, seen=seen)

    def command(self, *arguments: str) -> str:
        """Runs the real `dispatcher` with arguments, shows it, and gives what it printed. Raises `CheckFailed`."""
        shown = f"dispatcher {' '.join(arguments)}"
        done = subprocess.run(  # noqa: S603 - our own command, with arguments of the story
            [sys.executable, "-m", "dispatcher", *arguments],
            cwd=self.directory,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode != 0:
            raise CheckFailed(f"{shown} succeeds", "exit code 0", f"{done.returncode}: {done.stderr.strip()}")
        self.screen.command(shown, done.stdout)
        return done.stdout


@contextmanager
def opened_scene(screen: Screen, *, retry_schedule: str, patience_s: float) -> Iterator[Scene]:
    """Starts the servers, and ends them and removes the directory afterwards. Raises `CheckFailed`."""
    stack = ExitStack()
    try:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dispatcher-demo-")))
        admin_key, webhook_secret = secrets.token_urlsafe(24), Secret.generate().text
        environment = _environment(directory, admin_key, retry_schedule) | {"WEBHOOK_SECRET": webhook_secret}

        def started(name: str, *arguments: str) -> Server:
            running = stack.enter_context(
                server(name, *arguments, environment=environment, directory=directory, patience_s=patience_s)
            )
            screen.process(name, running.pid, running.url)
            return running

        yield Scene(
            screen=screen,
            directory=directory,
            environment=environment,
            dispatcher=started("dispatcher serve", "-m", "dispatcher", "serve", "--port", "0"),
            agent_api=started("agent API", "-m", "dispatcher.demo.agent_api"),
            receiver=started("receiver", "-m", "dispatcher.demo.receiver"),
            admin_key=admin_key,
            webhook_secret=webhook_secret,
            patience_s=patience_s,
        )
    finally:
        with interruptions_ignored():
            stack.close()


def _environment(directory: Path, admin_key: str, retry_schedule: str) -> dict[str, str]:
    """This process's, with the demo's settings in place of any that are set here."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    package = str(Path(dispatcher.__file__).resolve().parent.parent)
    return others | {
        # The processes start in a directory of their own, also where the package is not installed.
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        "PYTHONIOENCODING": "utf-8",
        "DISPATCHER_DATABASE_URL": f"sqlite+aiosqlite:///{directory / 'demo.db'}",
        "DISPATCHER_ADMIN_KEY": admin_key,
        "DISPATCHER_HOST": "127.0.0.1",
        # The receiver is on this machine: a real deployment sends to public https addresses only.
        "DISPATCHER_ALLOW_HTTP": "true",
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
        "DISPATCHER_RETRY_SCHEDULE": retry_schedule,
        "DISPATCHER_RETRY_JITTER": "0",
    }


def call(method: str, url: str, body: Mapping[str, object] | None = None, key: str | None = None) -> tuple[int, Any]:
    """One HTTP request with a JSON body: the status and the JSON answer. Raises `CheckFailed` without one."""
    parts = urlsplit(url)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        raise CheckFailed(f"{method} {url} is answered", "a JSON answer", repr(error)) from error
    finally:
        connection.close()
