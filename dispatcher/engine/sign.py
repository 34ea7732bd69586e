"""Sign: a claimed delivery becomes a request, its signature made at the moment of sending."""

from datetime import datetime

from dispatcher.rules.bodies import EventFacts, body_headers, render
from dispatcher.rules.signing import legacy_signature, signature_header
from dispatcher.store.claimed import Claimed
from dispatcher.store.endpoint_policies import EndpointPolicy
from dispatcher.transport.client import Request
from dispatcher.version import USER_AGENT


def sign(claimed: Claimed, policy: EndpointPolicy, now: datetime) -> Request:
    """The request of this attempt. Same body on every attempt; only timestamp and signature differ.

    Raises `InvalidField` when the stored event cannot be rendered.
    """
    event = EventFacts(
        id=claimed.event_id,
        type=claimed.event_type,
        timestamp=claimed.timestamp,
        job_id=claimed.job_id,
        sequence=claimed.sequence,
        data=claimed.data,
        traceparent=claimed.traceparent,
    )
    body = render(claimed.body_profile, event)
    timestamp = int(now.timestamp())
    headers = {
        **policy.headers,
        **body_headers(claimed.body_profile, event),
        "user-agent": USER_AGENT,
        "webhook-id": claimed.event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature_header(policy.keys, claimed.event_id, timestamp, body, policy.private_keys),
        "x-delivery-attempt": str(claimed.attempt),
    }
    if claimed.replay:
        headers["x-delivery-replay"] = "true"
    if claimed.late:
        headers["x-delivery-late"] = "true"
    if claimed.previous_sequence is not None:
        headers["x-job-previous"] = str(claimed.previous_sequence)
    if claimed.traceparent is not None:
        headers["traceparent"] = claimed.traceparent
    if policy.signature_header is not None:
        headers[policy.signature_header] = legacy_signature(policy.legacy_key, body, policy.signature_prefix)
    return Request(policy.url, headers, body, policy.timeout_s, policy.credentials)


def echoed_secrets(policy: EndpointPolicy, request: Request) -> tuple[str, ...]:
    """What an answer may repeat of the request, and must not be kept or shown."""
    if policy.signature_header is None:
        return policy.secret_texts
    signature = request.headers[policy.signature_header]
    return (*policy.secret_texts, signature, signature.removeprefix(policy.signature_prefix))
