"""The weather: what becomes of statements and POSTs, drawn from the seed."""

from dataclasses import dataclass, field
from random import Random

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError

#: What a statement may take before it counts as unanswered, in seconds.
STATEMENT_TIMEOUT_S = 6.0
#: An answer that takes so long is trouble, in seconds.
SLOW_S = 0.5
#: What a POST may take, in seconds.
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one call: when it takes effect (null: never), when the answer comes, and whether it is one."""

    effect_s: float | None
    answer_s: float
    answered: bool = True

    @property
    def troubling(self) -> bool:
        """Whether it excuses anything."""
        return not self.answered or self.answer_s > SLOW_S


@dataclass(slots=True)
class Weather:
    """How the world behaves just now."""

    rng: Random
    #: Shares of calls to the database that fail, and that are slow.
    failing: float = 0.0
    slow: float = 0.0
    #: Statements that nobody answers for a time: process and name ("" for all), from, until.
    outages: list[tuple[str, str, float, float]] = field(default_factory=list)
    #: Share of claims that meet another's.
    contended: float = 0.0
    #: Shares of POSTs that are not answered well, and that are slow.
    refusing: float = 0.0
    dawdling: float = 0.0
    #: Answers that were settled before, by event and endpoint; used up from the front.
    scripted: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    #: Events that kill who sends them.
    poison: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """All is well from now on."""
        self.failing = self.slow = self.refusing = self.dawdling = 0.0
        self.outages.clear()
        self.poison.clear()

    def statement(self, process: str, name: str, now: float) -> Plan:
        """What becomes of a statement."""
        draw = self.rng.random
        out = any(
            begin <= now < end and process.startswith(whose) and name.startswith(which)
            for whose, which, begin, end in self.outages
        )
        chance = draw()
        if out or chance < self.failing:
            kind = self.rng.randrange(2 if out else 4)
            answer_s = STATEMENT_TIMEOUT_S if kind == 1 else 0.001 + 0.02 * draw()
            return Plan(answer_s * draw() if kind > 1 else None, answer_s, answered=False)
        answer_s = 0.001 + 0.004 * draw()
        if chance < self.failing + self.slow:
            answer_s = 0.1 + (STATEMENT_TIMEOUT_S - 0.2) * draw() ** 2
        return Plan(answer_s * draw(), answer_s)

    def locked(self) -> tuple[int, ...]:
        """The destinations that another process claims for just now."""
        if not self.contended or self.rng.random() >= self.contended:
            return ()
        return (self.rng.randrange(2),)

    def answer(self, event_id: str, endpoint_row: int) -> tuple[float, Exchange | None]:
        """When a POST is answered, and with what (null: the client itself breaks)."""
        draw = self.rng.random
        script = self.scripted.get((event_id, endpoint_row))
        seconds = 0.02 + 0.08 * draw()
        if self.dawdling and draw() < self.dawdling:
            seconds = 12.0 * draw()
        if script:
            status = script.pop(0) if len(script) > 1 else script[0]
            return seconds, Exchange(status, None if status == 200 else AttemptError.HTTP_STATUS)
        if draw() >= self.refusing:
            return seconds, Exchange(200, None)
        match self.rng.randrange(9):
            case 0:
                return seconds, Exchange(503, AttemptError.HTTP_STATUS, retry_after_s=1.0 + 4 * draw())
            case 1:
                return seconds, Exchange(None, AttemptError.CONNECTION_REFUSED)
            case 2:
                return seconds, Exchange(None, AttemptError.CONNECTION_RESET)
            case 3:
                return TIMEOUT_S, Exchange(None, AttemptError.TIMEOUT)
            case 4:
                return seconds, None
            case 5 if draw() < 0.2:
                return seconds, Exchange(410, AttemptError.HTTP_STATUS)
            case _:
                return seconds, Exchange(500, AttemptError.HTTP_STATUS)
