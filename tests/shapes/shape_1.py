"""Shape 1, as its tutorial writes it in Flask: a bare hex signature, JSON or 400, fields at the top level."""

import hashlib
import hmac
import os

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

app = Flask(__name__)
WEBHOOK_SECRET = os.environ["WEBHOOK_SECRET"]
processed_events: set[str] = set()


def verify_signature(payload: bytes, signature: str | None) -> bool:
    if not signature:
        return False
    expected = hmac.new(WEBHOOK_SECRET.encode("utf-8"), payload, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature)


@app.route("/webhook", methods=["POST"])
def handle_webhook() -> ResponseReturnValue:
    if request.headers.get("Content-Type") != "application/json":
        return jsonify({"error": "Content-Type must be application/json"}), 400
    if not verify_signature(request.data, request.headers.get("X-Webhook-Signature")):
        return jsonify({"error": "Invalid signature"}), 401
    event = request.get_json()
    event_id = event["id"]
    if event_id in processed_events:
        return jsonify({"status": "already processed"}), 200
    processed_events.add(event_id)
    print(f"processed {event['type']} {event['task']} {event['status']}", flush=True)
    return jsonify({"status": "ok"}), 200


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]))
