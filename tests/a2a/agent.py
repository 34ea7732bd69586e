"""A real server of the A2A SDK on loopback, with an agent that is told what to do, and the SDK's own client."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from a2a.client import Client, ClientConfig, create_client
from a2a.helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import (
    InMemoryTaskStore,
    PushNotificationConfigStore,
    PushNotificationSender,
    TaskStore,
    TaskUpdater,
)
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Role,
    SendMessageRequest,
    Task,
    TaskPushNotificationConfig,
)
from starlette.applications import Starlette


class Researcher(AgentExecutor):
    """Works in four steps; on `ask` it wants to know more first, on `fail` it fails."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        assert context.task_id is not None
        assert context.context_id is not None
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        await task.start_work(task.new_agent_message([new_text_part("searching")]))
        match context.get_user_input():
            case "ask":
                await task.requires_input(task.new_agent_message([new_text_part("which year?")]))
            case "fail":
                await task.failed(task.new_agent_message([new_text_part("no library")]))
            case _:
                await task.add_artifact([new_text_part("page 1")], artifact_id="report", name="report")
                await task.add_artifact([new_text_part("page 2")], artifact_id="report", append=True, last_chunk=True)
                await task.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


def application(
    url: str,
    config_store: PushNotificationConfigStore,
    sender: PushNotificationSender | None,
    task_store: TaskStore | None = None,
) -> tuple[Starlette, DefaultRequestHandler]:
    """A server as the SDK's documentation builds it."""
    card = AgentCard(
        name="researcher",
        description="finds papers",
        version="1",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(push_notifications=True, streaming=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="search", name="search", description="finds papers", tags=["papers"])],
    )
    handler = DefaultRequestHandler(
        agent_executor=Researcher(),
        task_store=task_store or InMemoryTaskStore(),
        agent_card=card,
        push_config_store=config_store,
        push_sender=sender,
    )
    routes = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")]
    return Starlette(routes=routes), handler


@asynccontextmanager
async def serving(
    config_store: PushNotificationConfigStore,
    sender: PushNotificationSender | None,
    task_store: TaskStore | None = None,
) -> AsyncIterator[Client]:
    """A client of a server that runs meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        app, handler = application(url, config_store, sender, task_store)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with httpx.AsyncClient() as http:
                client = await create_client(url, ClientConfig(streaming=False, httpx_client=http))
                yield client
        finally:
            await handler.aclose()
            server.should_exit = True
            await running


async def send(
    client: Client, text: str, push: TaskPushNotificationConfig | None = None, task: Task | None = None
) -> Task:
    """What the agent answers to a message: its task, once it needs nothing more for now."""
    message = new_text_message(text, role=Role.ROLE_USER)
    if task is not None:
        message.task_id, message.context_id = task.id, task.context_id
    request = SendMessageRequest(message=message)
    if push is not None:
        request.configuration.task_push_notification_config.CopyFrom(push)
    [answer] = [response async for response in client.send_message(request)]
    return answer.task
