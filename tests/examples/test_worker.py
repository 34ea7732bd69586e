"""The example worker, run as its reader runs it: a real Celery worker publishes what `dispatcher work` delivers."""

import json
from pathlib import Path

from dispatcher import verify
from tests.deployed import LOCAL
from tests.programs import running_python
from tests.receiver import Receiver

_TASKS = Path(__file__).resolve().parent.parent.parent / "examples" / "worker" / "tasks.py"


async def test_a_worker_s_task_publishes_with_its_row_and_goes_on_where_it_stood_when_it_is_told_twice(
    empty_sqlite_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    settings = LOCAL | {"database_url": empty_sqlite_url}
    environment = {f"DISPATCHER_{setting.upper()}": str(value) for setting, value in settings.items()}
    # Queues in files: a broker without a service.
    environment["CELERY_BROKER_URL"] = f"sqla+sqlite:///{tmp_path}/queue.db"
    celery = ("-m", "celery", "--app=tasks", f"--workdir={_TASKS.parent}")
    # Threads, since a worker with processes takes five seconds to end.
    worker = (*celery, "worker", "--loglevel=info", "--pool=threads", "--concurrency=2")
    async with running_python("-m", "dispatcher", "work", **environment) as dispatching:
        await dispatching.says("dispatcher.started")
        async with running_python(_TASKS, receiver.url("/hooks"), **environment) as starting:
            [said] = await starting.says("started job_")
        job_id, secret = said.split(";")[0].removeprefix("started "), said.rsplit(" ", 1)[1]
        async with running_python(
            *celery, "call", "translate", "--args", json.dumps([job_id]), **environment
        ) as telling:
            assert await telling.done() == 0
        async with running_python(*worker, **environment) as working:
            await working.says("succeeded in", 2)
        await receiver.wait_for(2, "/hooks")
    events = [json.loads(request.body) for request in receiver.received("/hooks")]
    for request in receiver.received("/hooks"):
        verify(request.body, request.headers, secret)
    assert {event["job_id"] for event in events} == {job_id}
    assert [event["type"] for event in events if event["type"] != "job.progress"] == ["job.started", "job.completed"]
    # One for each of five chapters, however often it was told; newer progress may have taken the place of some.
    assert (events[-1]["sequence"], events[-1]["data"]) == (7, {"status": "completed", "chapters": 5})
