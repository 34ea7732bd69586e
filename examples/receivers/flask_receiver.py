"""A receiver on Flask: verifies with the published library `standardwebhooks`, takes each event once."""

import os

from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError

app = Flask(__name__)
webhook = Webhook(os.environ["WEBHOOK_SECRET"])

# In your database: a table whose key is the event's id.
taken: set[str] = set()


@app.post("/hooks")
def receive() -> tuple[str, int]:
    try:
        event = webhook.verify(request.get_data(), dict(request.headers))
    except WebhookVerificationError as error:
        return str(error), 401
    if event["id"] not in taken:
        taken.add(event["id"])
        print("received", event["type"], event["id"], flush=True)
    return "", 204


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "3000")))
