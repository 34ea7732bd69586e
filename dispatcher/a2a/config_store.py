"""The SDK's push notification configs, kept as callbacks: endpoints that are bound to the task as their job."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from a2a.server.context import ServerCallContext
from a2a.server.owner_resolver import OwnerResolver, resolve_user_scope
from a2a.server.tasks import PushNotificationConfigStore
from a2a.server.tasks.push_notification_config_store import normalize_push_notification_config
from a2a.types import TaskPushNotificationConfig
from a2a.utils.errors import InvalidParamsError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher.a2a.database import deployment_of
from dispatcher.a2a.push_config import CONFIG_ID, OWNER, PushConfig
from dispatcher.errors import Conflict, InvalidField, NotFound
from dispatcher.ids import Kind, public_id
from dispatcher.outbox.events import check_text
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.secrets import Secret
from dispatcher.service.endpoint_changes import delete, set_status, update
from dispatcher.service.models import EndpointUpdate
from dispatcher.states import EndpointStatus, Profile, Reason
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_fields import endpoint_defaults
from dispatcher.store.endpoint_rows import NewEndpoint, callback_row, insert_endpoint, open_headers, open_url

#: How often a config is set anew when somebody deletes it meanwhile.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, repr=False)
class _Stored:
    endpoint_id: str
    owner: str
    config: TaskPushNotificationConfig


class OutboxPushNotificationConfigStore(PushNotificationConfigStore):
    """Each config is an endpoint with the profile `a2a-1.0` that gets every event of its task, whoever publishes it.

    Token and credentials are the endpoint's headers, encrypted at rest like its URL. A config ends with its task, as
    callbacks do. `engine` is on the outbox's database (with SQLite: after `prepare_sqlite`); keys and defaults come
    from `DISPATCHER_…` in this process's environment. Every config belongs to one `tenant`, since a sender is not
    told whose task it is; who may read and delete a config follows from `owner_resolver`, as in the SDK's own stores.
    `secret_for` gives the signing secret for an owner; without it each endpoint has one of its own.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        tenant: str = "default",
        secret_for: Callable[[str], str] | None = None,
        owner_resolver: OwnerResolver = resolve_user_scope,
    ) -> None:
        self._engine = engine
        self._tenant = tenant
        self._secret_for = secret_for
        self._owner_resolver = owner_resolver

    async def set_info(
        self, task_id: str, notification_config: TaskPushNotificationConfig, context: ServerCallContext
    ) -> TaskPushNotificationConfig:
        """Stores a config, in the place of the owner's of the same id, and returns it as stored.

        What waits for the old one goes to the new. Raises the SDK's `InvalidParamsError` for a URL that the egress
        rules refuse, and for a token or credentials that cannot be a header.
        """
        config = normalize_push_notification_config(task_id, notification_config)
        owner = self._owner_resolver(context)
        try:
            await self._set(config, owner)
        except InvalidField as error:
            raise InvalidParamsError(message=str(error)) from None
        return config

    async def get_info(self, task_id: str, context: ServerCallContext) -> list[TaskPushNotificationConfig]:
        """The owner's configs of the task, the first set first."""
        owner = self._owner_resolver(context)
        return [stored.config for stored in await self._find(task_id) if stored.owner == owner]

    async def get_info_for_dispatch(self, task_id: str) -> list[TaskPushNotificationConfig]:
        """Every owner's configs of the task, the first set first."""
        return [stored.config for stored in await self._find(task_id)]

    async def delete_info(self, task_id: str, context: ServerCallContext, config_id: str | None = None) -> None:
        """Deletes the owner's config of this id, or all of the owner's; what waits for it is cancelled."""
        owner = self._owner_resolver(context)
        for stored in await self._find(task_id):
            if stored.owner == owner and config_id in (None, stored.config.id):
                try:
                    await delete(self._deployment, stored.endpoint_id, tenant=self._tenant)
                except NotFound:
                    # Somebody else was faster.
                    continue

    @cached_property
    def _deployment(self) -> Deployment:
        return deployment_of(self._engine)

    async def _set(self, config: TaskPushNotificationConfig, owner: str) -> None:
        check_text("task_id", config.task_id, 255)
        check_text("id", config.id, 255)
        wanted = PushConfig.of(config, owner)
        defaults = endpoint_defaults(self._deployment.settings)
        own = {name.lower() for name in wanted.headers}
        usual = {name: value for name, value in defaults.get("headers", {}).items() if name.lower() not in own}
        # Read as the API's, so that both refuse the same.
        fields = EndpointUpdate.read(
            {"url": wanted.url, "headers": {**usual, **wanted.headers}, "metadata": dict(wanted.metadata)}
        )
        new = self._new(config, owner, defaults, fields)
        endpoint_id = public_id(Kind.ENDPOINT, new.row_id)
        database = self._deployment.database
        for _ in range(_ATTEMPTS):
            async with database.begin() as connection:
                if await connection.run_sync(
                    insert_endpoint, database.tables, self._deployment.keyring, new, database.now()
                ):
                    return
            try:
                stored = await update(self._deployment, endpoint_id, fields, tenant=self._tenant)
                if stored.status is EndpointStatus.DISABLED and stored.disabled_reason is not Reason.OPERATOR:
                    await set_status(self._deployment, endpoint_id, "enable", tenant=self._tenant)
            except NotFound:
                continue
            except Conflict:
                # Its receiver never proved that it wants it: it is asked anew, as that of a config that was not there.
                await delete(self._deployment, endpoint_id, tenant=self._tenant)
                continue
            return
        raise NotFound(f"config {config.id} of task {config.task_id} is being deleted; set it again")

    def _new(
        self, config: TaskPushNotificationConfig, owner: str, defaults: dict[str, Any], fields: EndpointUpdate
    ) -> NewEndpoint:
        secret = Secret.generate() if self._secret_for is None else Secret.parse(self._secret_for(owner))
        # No URL begins like this, so that it is never a callback of somebody else.
        identity = json.dumps([owner, config.id])
        return NewEndpoint(
            row_id=callback_row(self._tenant, config.task_id, identity),
            tenant=self._tenant,
            url=CallbackUrl.parse(config.url, self._deployment.egress),
            secret=secret,
            job_id=config.task_id,
            verify_endpoints=self._deployment.settings.verify_endpoints,
            **{
                **defaults,
                **{name: value for name, value in fields.columns().items() if name in ("headers", "metadata")},
                "profile": Profile.A2A_1_0,
                "event_types": ("*",),
            },
        )

    async def _find(self, task_id: str) -> Sequence[_Stored]:
        database, keyring = self._deployment.database, self._deployment.keyring
        endpoints = database.tables.endpoints
        async with database.read() as connection:
            rows = await connection.execute(
                select(endpoints)
                .where(
                    endpoints.c.tenant == self._tenant, endpoints.c.job_id == task_id, endpoints.c.deleted_at.is_(None)
                )
                .order_by(endpoints.c.created_at, endpoints.c.row_id)
            )
            found = []
            for row in rows:
                metadata = json.loads(row.metadata)
                if CONFIG_ID in metadata and OWNER in metadata:
                    kept = PushConfig(
                        open_url(keyring, row.row_id, row.url_sealed),
                        open_headers(keyring, row.row_id, row.headers_sealed),
                        metadata,
                    )
                    found.append(_Stored(public_id(Kind.ENDPOINT, row.row_id), metadata[OWNER], kept.config(task_id)))
            return found
