"""A receiver on nothing but Python: checks the Standard Webhooks signature by hand, takes each event once."""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))

# In your database: a table whose key is the event's id.
taken: set[str] = set()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.is_signed(body):
            self.answer(401)
            return
        event = json.loads(body)
        if event["id"] not in taken:
            taken.add(event["id"])
            print("received", event["type"], event["id"], flush=True)
        self.answer(204)

    def is_signed(self, body: bytes) -> bool:
        message_id = self.headers.get("webhook-id", "")
        timestamp = self.headers.get("webhook-timestamp", "")
        if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > 300:
            return False
        signed = f"{message_id}.{timestamp}.".encode() + body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        # Two signatures while a secret is being rotated, separated by a space.
        given = self.headers.get("webhook-signature", "").split()
        return any(hmac.compare_digest(f"v1,{expected}".encode(), token.encode()) for token in given)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Receiver)
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
