"""What the demo shows: its steps, what happened in each, and checks that end it when what is shown is not true."""

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from dispatcher.demo.receiver import Arrival


class CheckFailed(Exception):
    """Something that the demo was about to show did not happen."""

    def __init__(self, claim: str, expected: object, seen: object) -> None:
        super().__init__(claim)
        self.claim = claim
        self.expected = expected
        self.seen = seen


class Screen:
    """The terminal, or a pipe; counts the checks that held."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0
        self.checks = 0

    def title(self, name: str, what: str) -> None:
        self._print(("\n", ""), (name, "bold"), (f": {what}", ""))

    def process(self, name: str, pid: int, url: str) -> None:
        self._print((f"  {name:<20}", ""), (f"pid {pid:<8}", "dim"), (url, "dim"))

    def step(self, title: str) -> None:
        self._steps += 1
        self._print((f"\n{self._steps} ", "bold cyan"), (title, "bold"))

    def request(self, method: str, url: str, body: Mapping[str, object], status: int, answer: object) -> None:
        """One request of the client's, with its answer."""
        fields = "  ".join(f"{name}={value}" for name, value in body.items())
        self._print((f"  → {method} {url}", "cyan"), (f"  {fields}", "dim"))
        self._print((f"  ← {status}", "cyan"), (f"  {answer}", "dim"))

    def note(self, text: str) -> None:
        self._print((f"  {text}", "dim"))

    def arrival(self, arrival: Arrival) -> None:
        """One webhook at the receiver."""
        replay = "  replay" if arrival.replay else ""
        taken = arrival.answer < 300
        self._print(
            (f"  {arrival.type:<14}", "" if taken else "yellow"),
            (f"{arrival.id}  ", "dim"),
            (f"sequence {arrival.sequence}  attempt {arrival.attempt}{replay}  ", ""),
            ("signature ok  ", "green"),
            (f"answered {arrival.answer}", "green" if taken else "bold yellow"),
        )

    def command(self, shown: str, output: str) -> None:
        """A command of the operator's, with what it printed."""
        self._print((f"  $ {shown}", "bold"))
        for line in output.splitlines():
            self._print((f"    {line}", ""))

    def check(self, claim: str, *, expected: object, seen: object) -> None:
        """Shows a claim that is true. Raises `CheckFailed` for one that is not."""
        if seen != expected:
            raise CheckFailed(claim, expected, seen)
        self.checks += 1
        self._print(("  ✓ ", "bold green"), (claim, "green"))

    def failed(self, failure: CheckFailed) -> None:
        self._print(("  ✗ ", "bold red"), (failure.claim, "red"))
        self._print((f"    expected: {failure.expected}", ""))
        self._print((f"    seen:     {failure.seen}", ""))

    def closing(self, took_s: float, agent_api: str) -> None:
        """The end; `agent_api` is the file of the code to read next."""
        self._print(
            (f"\nAll of this happened: {self.checks} checks held", "bold green"), (f", in {took_s:.1f} s.", "green")
        )
        self._print((f"The agent API's code: {agent_api}", "dim"))
        self._print(("What is next: dispatcher serve, and dispatcher --help", "dim"))

    def _print(self, *parts: tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)
