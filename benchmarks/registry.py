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
    "processes": processes.rows,
    "order": order.rows,
    "latency": latency.rows,
    "coalescing": coalescing.rows,
    "slow": slow_endpoint.rows,
    "quiet": unfair.quiet_rows,
    "spread": unfair.spread_rows,
    "burst": unfair.burst_rows,
    "memory": memory.rows,
    "ingest": ingest.rows,
    "handover": handover.rows,
    "publish": publish_cost.rows,
    "idle": idle.rows,
    **growth.PARTS,
    "waiting": waiting.rows,
}
#: Only where they are asked for.
APART: Mapping[str, Measure] = {
    "slow-lasting": slow_endpoint.lasting_rows,
    "client": client.rows,
    "backlog": backlog.rows,
}
#: With `--long`.
LONG: Mapping[str, Measure] = {
    **growth.PARTS,
    "slow-lasting": slow_endpoint.lasting_rows,
    "backlog": backlog.rows,
}
