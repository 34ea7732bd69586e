"""Asking the service for one thing and printing its fields: what most commands do."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from dispatcher.cli.printing import print_answer, print_attributes
from dispatcher.cli.session import on_deployment
from dispatcher.service.models import Answer
from dispatcher.store.deployment import Deployment

AnswerT = TypeVar("AnswerT", bound=Answer)


def ask(work: Callable[[Deployment], Awaitable[AnswerT]], as_json: bool) -> AnswerT:
    """What `work` answers on the deployment of the settings, printed too. Raises `DispatcherError`."""
    answer = on_deployment(work)
    print_answer(answer, as_json, lambda: print_attributes(answer))
    return answer
