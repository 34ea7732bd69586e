"""What is measured, by name: every measure's module makes its lines of the table."""

from collections.abc import Mapping

from benchmarks import (
    backlog,
    client,
    coalescing,
    drain,
    growth,
    guard,
    handover,
    idle,
    ingest,
    latency,
    memory,
    order,
    processes,
    publish_cost,
    slow_endpoint,
    stubbed,
    unfair,
    waiting,
)
from benchmarks.rows import Measure

#: In a run of everything, in this order.
MEASURES: Mapping[str, Measure] = {
    "drain": drain.rows,
    "stubbed": stubbed.rows,
    "guard": guard.rows,
    "handover": handover.rows,
    "ingest": ingest.rows,
    "publish": publish_cost.rows,
    "latency": latency.rows,
    "slow": slow_endpoint.rows,
    "processes": processes.rows,
    "idle": idle.rows,
    "memory": memory.rows,
    "burst": unfair.burst_rows,
    "quiet": unfair.quiet_rows,
}
#: What takes so long that it is measured only where it is asked for, each by its name or all with `--long`.
LONG: Mapping[str, Measure] = {
    **growth.PARTS,
    "spread": unfair.spread_rows,
    "wide-burst": unfair.wide_burst_rows,
    "order": order.rows,
    "coalescing": coalescing.rows,
    "waiting": waiting.rows,
    "backlog": backlog.rows,
    "slow-lasting": slow_endpoint.lasting_rows,
}
#: All that can be asked for.
ALL: Mapping[str, Measure] = {**MEASURES, **LONG, "client": client.rows}
