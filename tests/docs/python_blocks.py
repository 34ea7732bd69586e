"""A page's Python, run as its reader runs it: block after block in one module, awaits included."""

import ast
import inspect
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher.outbox.callbacks import producer_keyring
from dispatcher.outbox.publish import producer_settings
from tests.docs.pages import blocks


@asynccontextmanager
async def python_of(page: Path) -> AsyncIterator[dict[str, Any]]:
    """The names that the page's Python blocks define, after all of them have run."""
    module = ModuleType(f"documentation_{page.stem.lower()}")
    sys.modules[module.__name__] = module
    # Producers read their settings once in a process, and this process has many tests.
    producer_settings.cache_clear()
    producer_keyring.cache_clear()
    try:
        for block in blocks(page, "python"):
            if block.not_run:
                continue
            code = compile("\n" * (block.line - 1) + block.text, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, module.__dict__)
            if inspect.iscoroutine(running):
                await running
        yield module.__dict__
    finally:
        for value in list(vars(module).values()):
            if isinstance(value, AsyncEngine):
                await value.dispose()
            elif isinstance(value, Engine):
                value.dispose()
        del sys.modules[module.__name__]
        producer_settings.cache_clear()
        producer_keyring.cache_clear()
