"""The endpoints' policies by version, so that a change holds for the next attempt and nothing is read twice."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_policies import EndpointPolicy, load_policies

#: Policies kept; a callback URL per job makes many.
CAPACITY = 20_000
#: Policies read at once.
BATCH = 128


@dataclass(slots=True, eq=False)
class _Reading:
    """Endpoints that are read together, begun when all who ask just now have asked."""

    answers: dict[int, asyncio.Future[EndpointPolicy | None]] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None
    #: Who waits for it.
    waiting: int = 0


class EndpointBook:
    """Policies that were read, the least used forgotten first."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._policies: OrderedDict[int, EndpointPolicy] = OrderedDict()
        self._next = _Reading()
        #: By endpoint what is being read.
        self._reading: dict[int, _Reading] = {}

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
        under_way = self._reading.get(endpoint_row)
        if policy is None and under_way is not None:
            # It may have begun before the endpoint was what it is now.
            await self._wait(under_way, endpoint_row)
            policy = self.known(endpoint_row, version)
        return policy or await self.read(endpoint_row)

    async def read(self, endpoint_row: int) -> EndpointPolicy | None:
        """Reads the policy, with those that others ask for; null when the endpoint is gone.

        Raises `Unreadable`, `StoreUnavailable`.
        """
        reading = self._next
        if endpoint_row not in reading.answers:
            loop = asyncio.get_running_loop()
            if not reading.answers:
                loop.call_soon(self._begin, reading)
            reading.answers[endpoint_row] = loop.create_future()
            if len(reading.answers) == BATCH:
                self._close(reading)
        await self._wait(reading, endpoint_row)
        return reading.answers[endpoint_row].result()

    async def _wait(self, reading: _Reading, endpoint_row: int) -> None:
        reading.waiting += 1
        try:
            await asyncio.wait([reading.answers[endpoint_row]])
        finally:
            reading.waiting -= 1
            if not reading.waiting and reading.task is not None:
                # Nobody wants to know any more.
                reading.task.cancel()

    def _close(self, reading: _Reading) -> None:
        self._next = _Reading()
        self._reading |= dict.fromkeys(reading.answers, reading)

    def _begin(self, reading: _Reading) -> None:
        if self._next is reading:
            self._close(reading)
        reading.task = asyncio.ensure_future(self._read(reading))
        # However it ends: one that is cancelled at once never runs.
        reading.task.add_done_callback(partial(self._ended, reading))

    async def _read(self, reading: _Reading) -> None:
        found = await self._load(list(reading.answers))
        for endpoint_row, answer in reading.answers.items():
            self._keep(endpoint_row, answer, found.get(endpoint_row))

    async def _load(self, endpoint_rows: Collection[int]) -> Mapping[int, EndpointPolicy | Exception]:
        deployment = self._deployment
        return await load_policies(deployment.database, deployment.keyring, deployment.settings, endpoint_rows)

    def _ended(self, reading: _Reading, task: "asyncio.Task[None]") -> None:
        self._end(reading)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        for answer in reading.answers.values():
            if error is not None and not answer.done():
                answer.set_exception(error)
                # Asked for, whether or not anybody still waits.
                answer.exception()

    def _end(self, reading: _Reading) -> None:
        for endpoint_row in reading.answers:
            if self._reading.get(endpoint_row) is reading:
                del self._reading[endpoint_row]

    def _keep(
        self,
        endpoint_row: int,
        answer: "asyncio.Future[EndpointPolicy | None]",
        found: EndpointPolicy | Exception | None,
    ) -> None:
        if isinstance(found, Exception):
            answer.set_exception(found)
            answer.exception()
            return
        if found is not None:
            # A later reading may have been quicker.
            found = self.known(endpoint_row, found.version + 1) or found
        answer.set_result(found)
        if found is None:
            self._policies.pop(endpoint_row, None)
            return
        self._policies[endpoint_row] = found
        self._policies.move_to_end(endpoint_row)
        if len(self._policies) > CAPACITY:
            self._policies.popitem(last=False)
