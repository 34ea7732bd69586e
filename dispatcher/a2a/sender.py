"""The SDK's push notification sender, by way of the outbox: durable as soon as it returns."""

from functools import cached_property

from a2a.server.tasks import PushNotificationEvent, PushNotificationSender
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher.a2a.database import database_of
from dispatcher.a2a.updates import publish_update
from dispatcher.store.database import Database


class OutboxPushNotificationSender(PushNotificationSender):
    """Publishes each update of a task in a transaction of its own; a dispatcher delivers it.

    `engine` is on the outbox's database (with SQLite: after `prepare_sqlite`). `tenant` is the config store's.
    Not to be used beside `OutboxTaskStore`, which publishes the same updates.
    """

    def __init__(self, engine: AsyncEngine, *, tenant: str = "default") -> None:
        self._engine = engine
        self._tenant = tenant

    @cached_property
    def _database(self) -> Database:
        return database_of(self._engine)

    async def send_notification(self, task_id: str, event: PushNotificationEvent) -> None:
        """Returns when the update is committed to the outbox, whoever listens.

        Raises `InvalidField` for what cannot be published (too large), and `StoreUnavailable` when the database does
        not answer for some seconds; the SDK logs it and goes on.
        """
        async with self._database.begin() as connection:
            await connection.run_sync(publish_update, event, task_id=task_id, tenant=self._tenant)
