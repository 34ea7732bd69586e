"""Whose endpoints a claim looks at beside its window, where few tenants fill that: those of the others, in turn.

So nobody waits for a turn of all the endpoints that another tenant has.
"""

from collections.abc import Sequence

#: Before the first endpoint of the first tenant.
START = ("", -1)
#: Where they are of fewer tenants than this, a claim that does not look at all endpoints looks at so many others' at
#: most.
OTHERS = 50
#: So much of them all is looked at: endpoints, or on PostgreSQL each one's fresh deliveries and those that go again. Of
#: each tenant it is two at least, for one endpoint.
OTHERS_HEADS = 100
#: Tenants of whom it is kept where they were left.
_KEPT = 1000


class OtherTenants:
    """Where the next look at other tenants goes on."""

    def __init__(self) -> None:
        #: The tenant behind whom it does.
        self.behind = ""
        #: By tenant who had more endpoints than were looked at the last of these.
        self.left: dict[str, int] = {}

    def looked_at(self, tenants: Sequence[str] | None, last: Sequence[int | None]) -> None:
        """These were, each up to this endpoint; null: to the last that it has, or the window had its endpoints.

        Null instead of tenants: no others were looked at. The next look at them begins with the first endpoint of each.
        """
        if tenants is None:
            # Most claims see all endpoints, and what would be kept were sent along with each.
            self.left.clear()
            return
        self.behind = tenants[-1] if len(tenants) == OTHERS else ""
        for tenant, endpoint_row in zip(tenants, last, strict=True):
            # The last one looked at is the last to be forgotten.
            self.left.pop(tenant, None)
            if endpoint_row is not None:
                self.left[tenant] = endpoint_row
        while len(self.left) > _KEPT:
            del self.left[next(iter(self.left))]
