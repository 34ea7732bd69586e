"""The same world driven by Hypothesis instead of a seed: it chooses what happens and for how long."""

from contextlib import ExitStack

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.simulation.scenario import Run


class Weathered(RuleBasedStateMachine):
    """A run whose bad weather is a list of rules."""

    #: Runs so far, and the first that broke a promise.
    played = 0
    found: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._around = ExitStack()
        self._run: Run | None = None

    @initialize(
        seed=st.integers(1, 10**6),
        failing=st.sampled_from((0.0, 0.03, 0.15)),
        slow=st.sampled_from((0.0, 0.05, 0.3, 0.5)),
        refusing=st.sampled_from((0.0, 0.1, 0.4)),
        dawdling=st.sampled_from((0.0, 0.1, 0.4)),
    )
    def begin(self, seed: int, failing: float, slow: float, refusing: float, dawdling: float) -> None:
        type(self).played += 1
        run = self._run = Run(seed)
        self._around.enter_context(run.surroundings())
        weather = run.weather
        weather.failing, weather.slow, weather.refusing, weather.dawdling = failing, slow, refusing, dawdling
        run.supervise()

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    @rule(seconds=st.floats(0.001, 10.0))
    def time_passes(self, seconds: float) -> None:
        self.run.world.run(self.run.world.time + seconds)
        self._check()

    @rule(jobs=st.integers(1, 4))
    def produce(self, jobs: int) -> None:
        self.run.produce(jobs)

    @rule()
    def hurt(self) -> None:
        self.run.hurt()

    @rule()
    def supervise(self) -> None:
        self.run.supervise()

    @rule()
    def outage(self) -> None:
        self.run.outage()

    @rule()
    def change_endpoint(self) -> None:
        self.run.change_endpoint()

    @rule()
    def redeliver(self) -> None:
        self.run.redeliver()

    def teardown(self) -> None:
        with self._around:
            if self._run is not None and not self.run.world.broken:
                self.run.good_weather()
                self._check()

    def _check(self) -> None:
        if self.run.world.broken:
            type(self).found = type(self).found or type(self).played
            raise AssertionError(self.run.world.broken[0])


def runs_until_found(most: int) -> int | None:
    """How many runs Hypothesis needs until one breaks a promise; null: more than that."""
    Weathered.played, Weathered.found = 0, None
    chosen = settings(
        max_examples=most,
        stateful_step_count=30,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(Weathered, settings=chosen)
    except AssertionError:
        return Weathered.found
    return None
