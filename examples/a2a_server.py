"""An agent on the A2A SDK whose push notifications survive: its tasks and their notifications are saved together.

The server is the SDK's own; only its stores are ours. The dispatcher runs in the same process.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

from dispatcher import Dispatcher, prepare_sqlite
from dispatcher.a2a import OutboxPushNotificationConfigStore, OutboxTaskStore


class Researcher(AgentExecutor):
    """Stands for your agent: it knows nothing of the outbox."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        await task.start_work(task.new_agent_message([new_text_part("searching")]))
        await task.add_artifact([new_text_part(f"what I found: {context.get_user_input()}")], name="report")
        await task.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def create_app(url: str) -> Starlette:
    # The outbox is in the database of your tasks, so both name the same one.
    engine = create_async_engine(os.environ.get("DISPATCHER_DATABASE_URL", "sqlite+aiosqlite:///dispatcher.db"))
    prepare_sqlite(engine)  # does nothing on PostgreSQL
    card = AgentCard(
        name="researcher",
        description="finds papers",
        version="1.0.0",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(push_notifications=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="search", name="search", description="finds papers", tags=["papers"])],
    )
    handler = DefaultRequestHandler(
        agent_executor=Researcher(),
        agent_card=card,
        # Publishes what it saves, in the same transaction; so there is no push_sender.
        task_store=OutboxTaskStore(engine),
        # Receivers verify with the secret that you agreed on; A2A itself has no field for one.
        push_config_store=OutboxPushNotificationConfigStore(
            engine, secret_for=lambda owner: os.environ["WEBHOOK_SECRET"]
        ),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # With several server processes leave this out, and run `dispatcher work` beside them.
        async with Dispatcher():
            yield
            await handler.aclose()
        await engine.dispose()

    return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")], lifespan=lifespan)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "9999")))) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        print(f"agent card: {url}.well-known/agent-card.json")
        uvicorn.Server(uvicorn.Config(create_app(url))).run(sockets=[listening])
