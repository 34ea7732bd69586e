"""Shape 3, as its tutorial writes it in Flask: `sha256=` is mandatory, event types are exact, a token in the URL."""

import hashlib
import hmac
import os
from datetime import datetime

from flask import Flask, abort, jsonify, request
from flask.typing import ResponseReturnValue

app = Flask(__name__)
SECRET = os.environ["WEBHOOK_SECRET"]
TOKEN = os.environ["WEBHOOK_TOKEN"]
seen_events: set[str] = set()


@app.post("/webhooks/provider")
def provider_webhook() -> ResponseReturnValue:
    if request.args.get("token") != TOKEN:
        abort(403)
    header = request.headers.get("X-Provider-Signature", "")
    if not header.startswith("sha256="):
        return jsonify(error="signature format"), 401
    expected = hmac.new(SECRET.encode(), request.get_data(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(header[len("sha256=") :], expected):
        return jsonify(error="signature mismatch"), 401
    payload = request.get_json()
    if payload.get("event_type") not in ("job.completed", "job.failed"):
        return jsonify(error="unknown event type"), 400
    datetime.fromisoformat(payload["timestamp"])
    if payload["event_id"] in seen_events:
        return jsonify(status="duplicate"), 200
    seen_events.add(payload["event_id"])
    print(f"processed {payload['event_type']} {payload['task']} {payload['status']}", flush=True)
    return jsonify(status="accepted"), 202


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]))
