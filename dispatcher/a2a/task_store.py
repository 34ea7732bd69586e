"""The SDK's task store with the outbox in the same transaction: a task's change and its notification, or neither."""

from typing import Any

from a2a.server.context import ServerCallContext
from a2a.server.tasks import DatabaseTaskStore
from a2a.types import Task
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher.a2a.task_changes import changes
from dispatcher.a2a.updates import publish_update


class OutboxTaskStore(DatabaseTaskStore):
    """The SDK's `DatabaseTaskStore`, which publishes what a save changed in the transaction of the save.

    It takes the place of a push notification sender: give the request handler this, a config store, and no sender.
    `engine` is on the outbox's database (with SQLite: after `prepare_sqlite`), where the SDK's table of tasks is too;
    `given` are the other arguments of `DatabaseTaskStore`. `tenant` is the config store's.
    """

    def __init__(self, engine: AsyncEngine, *, tenant: str = "default", **given: Any) -> None:
        super().__init__(engine, **given)
        self._tenant = tenant

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Saves the task and publishes what is new in it.

        Raises `InvalidField`, and saves nothing, for what cannot be published (an artifact that is too large).
        """
        await self._ensure_initialized()
        saved = self._to_orm(task, self.owner_resolver(context))
        async with self.async_session_maker.begin() as session:
            # Locked, so that two servers that save one task tell of its changes one after the other.
            stored = await session.get(self.task_model, task.id, with_for_update=True)
            for update in changes(None if stored is None else self._from_orm(stored), task):
                publish_update(session, update, task_id=task.id, tenant=self._tenant)
            await session.merge(saved)
