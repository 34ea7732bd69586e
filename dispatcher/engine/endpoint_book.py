"""The endpoints' policies by version, so that a change holds for the next attempt and nothing is read twice."""

import asyncio
from collections import OrderedDict
from weakref import WeakValueDictionary

from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_policies import EndpointPolicy, load_policy

#: Policies kept; a callback URL per job makes many.
CAPACITY = 20_000


class EndpointBook:
    """Policies that were read, the least used forgotten first."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._policies: OrderedDict[int, EndpointPolicy] = OrderedDict()
        # Weak, so that a lock is gone with the last who waits for it, however the reading ended.
        self._reading: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def known(self, endpoint_row: int, version: int) -> EndpointPolicy | None:
        """The policy, if it was read at this version or later and its keys still sign."""
        policy = self._policies.get(endpoint_row)
        if policy is None or policy.version < version:
            return None
        if policy.good_until is not None and policy.good_until <= self._deployment.clock.now():
            return None
        self._policies.move_to_end(endpoint_row)
        return policy

    async def current(self, endpoint_row: int, version: int) -> EndpointPolicy | None:
        """The policy at this version or later, read once however many ask for it; null when the endpoint is gone.

        Raises `Unreadable`, `StoreUnavailable`.
        """
        policy = self.known(endpoint_row, version)
        if policy is not None:
            return policy
        async with self._reading.setdefault(endpoint_row, asyncio.Lock()):
            return self.known(endpoint_row, version) or await self.read(endpoint_row)

    async def read(self, endpoint_row: int) -> EndpointPolicy | None:
        """Reads the policy; null when the endpoint is gone. Raises `Unreadable`, `StoreUnavailable`."""
        deployment = self._deployment
        policy = await load_policy(deployment.database, deployment.keyring, deployment.settings, endpoint_row)
        if policy is None:
            self._policies.pop(endpoint_row, None)
            return None
        self._policies[endpoint_row] = policy
        self._policies.move_to_end(endpoint_row)
        if len(self._policies) > CAPACITY:
            self._policies.popitem(last=False)
        return policy
