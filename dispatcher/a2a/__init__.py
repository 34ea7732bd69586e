"""Servers of the A2A SDK: push notifications that go through the outbox instead of one attempt in the server's process.

The SDK's request handler takes these in the place of its own; the server itself stays as it is.
"""

try:
    import a2a.server.tasks as _sdk
except ImportError as error:
    raise ImportError("dispatcher.a2a needs the A2A SDK: pip install 'outbox-dispatcher[a2a]'") from error

from dispatcher.a2a.config_store import OutboxPushNotificationConfigStore
from dispatcher.a2a.sender import OutboxPushNotificationSender
from dispatcher.a2a.task_store import OutboxTaskStore

del _sdk

__all__ = ["OutboxPushNotificationConfigStore", "OutboxPushNotificationSender", "OutboxTaskStore"]
