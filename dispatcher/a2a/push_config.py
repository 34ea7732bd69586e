"""A push notification config as an endpoint of ours, and back: nothing of it is lost, and its secrets are sealed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from a2a.types import TaskPushNotificationConfig

#: A2A does not name the token's header: receivers on the Python SDK look for the first, those on the Go SDK for the
#: second.
TOKEN_HEADERS = ("X-A2A-Notification-Token", "A2A-Notification-Token")
AUTHORIZATION = "Authorization"

#: Names of an endpoint's `metadata`.
CONFIG_ID = "a2a_config_id"
OWNER = "a2a_owner"
_SCHEME = "a2a_scheme"
_TENANT = "a2a_tenant"


@dataclass(frozen=True, slots=True, repr=False)
class PushConfig:
    """A config in the words of an endpoint."""

    url: str
    headers: Mapping[str, str]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, config: TaskPushNotificationConfig, owner: str) -> Self:
        """The parts of an endpoint that a config decides; `owner` is who set it."""
        headers: dict[str, str] = {}
        metadata = {CONFIG_ID: config.id, OWNER: owner}
        if config.token:
            headers |= dict.fromkeys(TOKEN_HEADERS, config.token)
        if config.HasField("authentication"):
            metadata[_SCHEME] = config.authentication.scheme
            if config.authentication.scheme and config.authentication.credentials:
                headers[AUTHORIZATION] = f"{config.authentication.scheme} {config.authentication.credentials}"
        if config.tenant:
            metadata[_TENANT] = config.tenant
        return cls(config.url, headers, metadata)

    def config(self, task_id: str) -> TaskPushNotificationConfig:
        """The config again."""
        config = TaskPushNotificationConfig(
            tenant=self.metadata.get(_TENANT, ""),
            id=self.metadata[CONFIG_ID],
            task_id=task_id,
            url=self.url,
            token=self.headers.get(TOKEN_HEADERS[0], ""),
        )
        scheme = self.metadata.get(_SCHEME)
        if scheme is not None:
            config.authentication.scheme = scheme
            config.authentication.credentials = self.headers.get(AUTHORIZATION, "").removeprefix(f"{scheme} ")
        return config
