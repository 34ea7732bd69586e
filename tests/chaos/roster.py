"""All faults, by name. A family of faults is one module of `tests/chaos/faults` and one line here."""

from tests.chaos.faults import Fault, clock, migrations, postgres, processes, receivers, sqlite

FAMILIES: tuple[tuple[Fault, ...], ...] = (
    processes.FAULTS,
    migrations.FAULTS,
    receivers.FAULTS,
    postgres.FAULTS,
    clock.FAULTS,
    sqlite.FAULTS,
)

FAULTS: dict[str, Fault] = {fault.name: fault for family in FAMILIES for fault in family}
