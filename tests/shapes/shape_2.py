"""Shape 2 without Express: the signature of GitHub's header, JSON only, known source addresses only."""

import hashlib
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"].encode()
ALLOWED = os.environ["ALLOWED_ADDRESSES"].split(",")
seen: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.client_address[0] not in ALLOWED:
            self.reply(403, b"Unknown source")
            return
        expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, self.headers.get("X-Hub-Signature-256", "")):
            self.reply(401, b"Invalid signature")
            return
        if self.headers["Content-Type"] != "application/json":
            self.reply(400, b"No JSON")
            return
        event = json.loads(body)
        if event["id"] in seen:
            self.reply(200, b"already processed")
            return
        seen.add(event["id"])
        print("processed", event["event"], event["task"], event["status"], flush=True)
        self.reply(200, b"OK")

    def reply(self, status: int, text: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
