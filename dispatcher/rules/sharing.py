"""Who goes first when not all can: tenants and endpoints in turn, some slots kept free, a share for what goes again."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

#: Of what an endpoint is sent at once, this much is retries and redeliveries while fresh deliveries wait, too.
AGAIN_SHARE = 0.2
#: One of so many of a process's slots is kept for endpoints that hold fewer than are left; half of these for tenants
#: that do.
KEPT_ONE_IN = 10
#: Endpoints' numbers are below, those of jobs' callbacks, too, which are the highest.
SPIN = 1 << 63
_GOLDEN = 0.6180339887498949


def dice(throw: int) -> float:
    """A number in [0, 1) that is evenly spread over any sequence of throws, every second or tenth of them, too."""
    return throw * _GOLDEN % 1.0


def spin(dice: float) -> int:
    """Endpoints' numbers, each xor this, are in another order with each throw: nobody is last every time."""
    return int(dice * SPIN)


def guaranteed_again(count: int, dice: float) -> int:
    """How many of `count` are retries and redeliveries at least; on average `AGAIN_SHARE` of them."""
    return math.floor(count * AGAIN_SHARE + dice)


def in_turn(
    candidates: Iterable[tuple[str, int, int, T]], held: Mapping[str, int], *, free: int, slots: int, most: int
) -> list[T]:
    """Those of the candidates that go, `most` of them at most.

    Each is its tenant, the how-manieth of its endpoint it would be in this process, a number that decides between
    equals, and what to answer. The tenant that has the fewest slots goes first, then the endpoint that has. `held`: the
    process's slots by tenant; `free`: those of its `slots` that nobody holds.
    """
    taken = Counter(held)
    queue: list[tuple[int, int, int, T]] = []
    for tenant, place, row, one in sorted(candidates, key=lambda candidate: candidate[1:3]):
        taken[tenant] += 1
        queue.append((taken[tenant], place, row, one))
    queue.sort(key=lambda entry: entry[:3])
    kept = slots // KEPT_ONE_IN

    def goes(turn: int, place: int, left: int) -> bool:
        return left > kept or (place <= left and (left > kept // 2 or turn <= left))

    # Who could not go even as the first takes nobody's place.
    queue = [entry for entry in queue if goes(entry[0], entry[1], free)]
    in_order = zip(range(free, free - len(queue), -1), queue, strict=True)
    return [one for left, (turn, place, _, one) in in_order if goes(turn, place, left)][:most]
