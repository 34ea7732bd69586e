"""Routes about one job: its events for who catches up, where they stand, and a link that opens them."""

from contextlib import nullcontext

from dispatcher.api import event_stream
from dispatcher.api.queries import JobEventsQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route, Stream
from dispatcher.errors import InvalidField
from dispatcher.service import job_status, jobs
from dispatcher.service.models import JobEvents, JobLink, JobLinkCreate, JobStatus
from dispatcher.states import Scope

_TAG = "Jobs"
_LONGEST_ID = len(str(jobs.LARGEST_SEQUENCE))


async def get_events(call: Call[object, JobEventsQuery]) -> Reply:
    """A part of the job's events, or a stream of them."""
    query, job_id = call.query, call.path["job_id"]
    streamed = event_stream.MEDIA_TYPE in call.accept
    wait_s = 0.0 if streamed and call.client.by_link else query.wait
    if streamed:
        call.door.readers.admit()
    # One that waits has a place while it does.
    with call.door.readers.place() if streamed and not wait_s else nullcontext():
        first = await jobs.events_after(
            call.deployment,
            job_id,
            tenant=call.owner,
            after=_after(call) if streamed else query.after,
            limit=jobs.STREAM_PAGE if streamed else query.limit,
            wait_s=wait_s,
            readers=call.door.readers,
            vouched=call.client.by_link,
            gone=call.client.gone,
        )
    if wait_s:
        # A wait is long enough for a key to be revoked, or a link to expire.
        await call.client.check()
    if not streamed:
        return Reply(200, first)
    if first.settled and not first.data:
        # The one answer after which a browser's EventSource does not connect again.
        return Reply(204)
    headers = {
        "Content-Type": event_stream.MEDIA_TYPE,
        # nginx would keep the messages until a buffer of its own is full.
        "X-Accel-Buffering": "no",
    }
    parts = jobs.follow(
        call.deployment,
        call.door.readers,
        job_id,
        tenant=call.owner,
        first=first,
        silence_s=event_stream.HEARTBEAT_S,
        gone=call.client.gone,
    )
    body = event_stream.stream(parts, named=query.named, check=call.client.check)
    return Reply(200, Stream(body), headers)


def _after(call: Call[object, JobEventsQuery]) -> int:
    """Where a stream goes on: where the one that broke had been, else where the query says."""
    text = call.client.last_event_id
    if not text:
        return call.query.after
    # Its length first: of thousands of digits no number is made.
    if len(text) > _LONGEST_ID or not text.isascii() or not text.isdecimal() or int(text) > jobs.LARGEST_SEQUENCE:
        raise InvalidField("Last-Event-ID", "is the id of a message of this stream: a sequence")
    return int(text)


async def get_status(call: Call[object, TenantQuery]) -> Reply:
    """Where the job's events stand."""
    return Reply(200, await job_status.status(call.deployment, call.path["job_id"], tenant=call.owner))


async def create_link(call: Call[JobLinkCreate, TenantQuery]) -> Reply:
    """Makes a link."""
    link = jobs.make_link(call.deployment, call.path["job_id"], call.body, tenant=call.owner)
    return Reply(201, link)


_TENANT = " With the admin key it is the job of `tenant`, else of the tenant `default`."

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/jobs/{job_id}",
        tag=_TAG,
        operation="getJob",
        summary="Show where a job's events stand",
        description="Per endpoint: how many are delivered, wait, or were given up, and why. `not_fanned_out` counts"
        " what no dispatcher has looked at yet." + _TENANT,
        handler=get_status,
        query=TenantQuery,
        answers={200: Answer("The job.", JobStatus)},
        problems=(404,),
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/jobs/{job_id}/events",
        tag=_TAG,
        operation="listJobEvents",
        summary="Catch up with a job's events",
        description="In the order of their `sequence`, which has no gaps but for what retention dropped. Ask again with"
        " `after` of the answer; `wait` answers as soon as there is something behind it. A job that nobody has"
        " mentioned is a 404, after `wait`. With `Accept: text/event-stream` the events come as Server-Sent Events with"
        " `sequence` as id, and a message `settled` at the end; the header `Last-Event-ID` goes before `after`, and 204"
        " says that the job has settled and nothing is behind it." + _TENANT,
        handler=get_events,
        query=JobEventsQuery,
        answers={
            200: Answer("A part of the events.", JobEvents, stream_type=event_stream.MEDIA_TYPE),
            204: Answer("To a stream: the job has settled, and nothing lies behind."),
        },
        linked=True,
        problems=(404, 429),
    ),
    Route(
        method="POST",
        scope=Scope.READ,
        path="/v1/jobs/{job_id}/link",
        tag=_TAG,
        operation="createJobLink",
        summary="Make a link to a job's events",
        description="For who has no key, like the page that waits for the job: `GET /v1/jobs/{job_id}/events` takes the"
        " token until it expires: as `?token=` from pages of any origin, or as Bearer key from scripts. Nothing is"
        " stored: a link cannot be taken back, so let it expire soon." + _TENANT,
        handler=create_link,
        query=TenantQuery,
        body=JobLinkCreate,
        example={"expires_in_s": 3600},
        answers={201: Answer("The link.", JobLink)},
    ),
)
