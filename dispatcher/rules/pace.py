"""How fast something may go: a rate with a burst, kept as the one moment until which it has run ahead.

What is done at once takes its time of the rate; as long as that runs ahead of now by less than the burst, more may be
done. One number remembers it, and one that lies in the past may be forgotten.
"""

#: Sums of many small times are as far off as this; nobody waits for so little.
_ROUNDING_S = 1e-6


def wait_s(ahead_until: float, now: float, cost_s: float, burst_s: float) -> float:
    """Seconds until what takes `cost_s` of the rate may be done; 0: now. What is larger than the burst waits until
    nothing is ahead, and is then done at once.
    """
    wait = max(ahead_until, now) - now + min(cost_s, burst_s) - burst_s
    return wait if wait > _ROUNDING_S else 0.0


def spent(ahead_until: float, now: float, cost_s: float) -> float:
    """Until when it has run ahead once that is done."""
    return max(ahead_until, now) + cost_s
