"""Routes that show where each delivery stands, send one again, or stop one."""

from dispatcher.api.queries import DeliveriesQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.service import deliveries
from dispatcher.service.models import Delivery, DeliveryWithLog, Page
from dispatcher.states import Scope

_TAG = "Deliveries"


async def list_page(call: Call[object, DeliveriesQuery]) -> Reply:
    """One page of deliveries."""
    page = await deliveries.list_page(
        call.deployment,
        tenant=call.tenant,
        limit=call.query.limit,
        cursor=call.query.cursor,
        state=call.query.state,
        endpoint_id=call.query.endpoint_id,
        event_id=call.query.event_id,
        job_id=call.query.job_id,
    )
    return Reply(200, page)


async def get(call: Call[object, TenantQuery]) -> Reply:
    """One delivery with its attempts."""
    return Reply(200, await deliveries.get(call.deployment, call.path["id"], tenant=call.tenant))


async def redeliver(call: Call[object, TenantQuery]) -> Reply:
    """Puts one delivery back for a new round."""
    delivery = await deliveries.redeliver(call.deployment, call.path["id"], tenant=call.tenant)
    call.door.wake()
    return Reply(202, delivery, {"Location": f"/v1/deliveries/{delivery.id}"})


async def cancel(call: Call[object, TenantQuery]) -> Reply:
    """Cancels one delivery that is pending."""
    delivery = await deliveries.cancel(call.deployment, call.path["id"], tenant=call.tenant)
    # Its lane goes on with the next.
    call.door.wake()
    return Reply(200, delivery)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/deliveries",
        tag=_TAG,
        operation="listDeliveries",
        summary="List deliveries",
        description="Newest first.",
        handler=list_page,
        query=DeliveriesQuery,
        answers={200: Answer("One page.", Page[Delivery])},
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/deliveries/{id}",
        tag=_TAG,
        operation="getDelivery",
        summary="Show a delivery with its attempts",
        handler=get,
        query=TenantQuery,
        answers={200: Answer("The delivery.", DeliveryWithLog)},
        problems=(404,),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path="/v1/deliveries/{id}/redeliver",
        tag=_TAG,
        operation="redeliverDelivery",
        summary="Send a delivery again",
        description="The same event id and bytes with a fresh timestamp; the retry schedule starts anew, and attempt"
        " numbers go on. Refused with 409 while it is being sent.",
        handler=redeliver,
        query=TenantQuery,
        answers={202: Answer("It waits to be sent.", Delivery, located="/v1/deliveries")},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path="/v1/deliveries/{id}/cancel",
        tag=_TAG,
        operation="cancelDelivery",
        summary="Cancel a pending delivery",
        description="Only what is pending can be cancelled; anything else is a 409.",
        handler=cancel,
        query=TenantQuery,
        answers={200: Answer("It is `cancelled`, reason `operator`.", Delivery)},
        problems=(404, 409),
    ),
)
