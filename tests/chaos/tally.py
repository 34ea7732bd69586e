"""What a campaign has found so far: a JSON line per round, in a file that later runs add to, and the table of all."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.chaos.audit import PROMISES, Audit

#: What the system must come back to by itself, as a share of its undisturbed twin's throughput.
TWIN_BAR = 0.9
#: How soon what was in flight at a kill goes out again with the default settings, in seconds.
RECOVERY_BAR_S = 15.0


@dataclass(frozen=True, slots=True)
class Round:
    """One siege, and what came of it."""

    database: str
    fault: str
    number: int
    strikes: int = 0
    events: int = 0
    in_flight: int = 0
    duplicates: int = 0
    recoveries_s: Sequence[float] = ()
    #: By promise: with what it was broken, and the first examples.
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Sequence[str]] = field(default_factory=dict)
    #: Whether it was made beside an undisturbed twin.
    twin: bool = False
    #: The throughput after it as a share of the twin's, and how long after the last strike that began, in seconds.
    ratio: float | None = None
    back_after_s: float | None = None
    #: Whether it was made with the default lease.
    defaults: bool = False
    took_s: float = 0.0
    #: Why it did not come to an end.
    failed: str | None = None

    @property
    def broken(self) -> list[str]:
        """The promises that were broken in it."""
        broken = sorted(self.counts)
        if self.failed:
            broken.append("failed")
        if self.duplicates > self.in_flight:
            broken.append("duplicates")
        if self.ratio is not None and self.ratio < TWIN_BAR:
            broken.append("throughput")
        if self.defaults and max(self.recoveries_s, default=0.0) > RECOVERY_BAR_S:
            broken.append("recovery")
        return broken


def round_of(database: str, fault: str, number: int, found: Audit, *, defaults: bool, took_s: float) -> Round:
    """A round from its audit."""
    return Round(
        database,
        fault,
        number,
        strikes=found.strikes,
        events=found.events,
        in_flight=found.in_flight,
        duplicates=found.duplicates,
        recoveries_s=[round(seconds, 2) for seconds in found.recoveries_s],
        counts={name: len(getattr(found, name)) for name in PROMISES if getattr(found, name)},
        examples=dict(found.broken),
        defaults=defaults,
        took_s=round(took_s, 1),
    )


class State:
    """The file of a campaign: its seed, then its rounds. Raises `ValueError` where it was made with another seed."""

    def __init__(self, file: Path, seed: int | None, otherwise: int) -> None:
        self._file = file
        self.rounds: list[Round] = []
        if file.exists():
            head, *lines = file.read_text().splitlines()
            self.seed = int(json.loads(head)["seed"])
            if seed not in (None, self.seed):
                raise ValueError(f"{file} has the seed {self.seed}; give no other, or another file")
            self.rounds = [Round(**json.loads(line)) for line in lines]
        else:
            self.seed = otherwise if seed is None else seed
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"seed": self.seed}) + "\n")

    def add(self, made: Round) -> None:
        """Keeps a round, on disk at once."""
        self.rounds.append(made)
        with self._file.open("a") as lines:
            lines.write(json.dumps(asdict(made)) + "\n")

    def strikes(self, database: str, fault: str) -> int:
        """How often a fault struck so far; a round that did not come to its end counts for its strikes too."""
        return sum(r.strikes for r in self.rounds if (r.database, r.fault, r.defaults) == (database, fault, False))

    def next_number(self, database: str, fault: str) -> int:
        return sum((r.database, r.fault) == (database, fault) for r in self.rounds) + 1

    def has(self, database: str, fault: str, *, twin: bool = False, defaults: bool = False) -> bool:
        return any(
            (r.database, r.fault) == (database, fault) and r.twin >= twin and r.defaults >= defaults
            for r in self.rounds
        )


HEADINGS = (
    "fault", "strikes", "events", "in flight", "lost", "phantom", "duplicates", "unexplained", "order", "stuck",
    "miscounted", "other", "recovery, median", "longest", "throughput / twin",
)  # fmt: skip


def table(rounds: Iterable[Round]) -> str:
    """Markdown: one line per database and fault."""
    groups: dict[tuple[str, str], list[Round]] = {}
    for made in rounds:
        name = f"{made.fault}, default lease" if made.defaults else made.fault
        groups.setdefault((made.database, name), []).append(made)
    lines = []
    for database in sorted({database for database, _ in groups}):
        rows = [HEADINGS, *(_row(name, group) for (where, name), group in groups.items() if where == database)]
        rows.append(
            _row("**all**", [made for (where, _), group in groups.items() if where == database for made in group])
        )
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        rows.insert(1, tuple("-" * width for width in widths))
        lines += [f"{database}:", ""]
        lines += [f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |" for row in rows] + [""]
    return "\n".join(lines)


def _row(name: str, group: Sequence[Round]) -> tuple[str, ...]:
    recoveries = [seconds for made in group for seconds in made.recoveries_s]
    ratios = [made.ratio for made in group if made.ratio is not None]

    def broken(*promises: str) -> str:
        return str(sum(made.counts.get(promise, 0) for made in group for promise in promises))

    other = int(broken("changed_bytes", "errors")) + sum(made.failed is not None for made in group)
    return (
        name,
        str(sum(made.strikes for made in group)),
        f"{sum(made.events for made in group):,}",
        f"{sum(made.in_flight for made in group):,}",
        broken("lost"),
        broken("phantoms"),
        f"{sum(made.duplicates for made in group):,}",
        broken("unexplained"),
        broken("order_violations"),
        broken("stuck"),
        broken("miscounted"),
        str(other),
        f"{median(recoveries):.1f} s" if recoveries else "",
        f"{max(recoveries):.1f} s" if recoveries else "",
        f"{min(ratios):.2f}" if ratios else "",
    )
