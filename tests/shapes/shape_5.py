"""Shape 5, as its tutorial writes it: prefix or none, 401 when wrong; events in UPPER_SNAKE, progress, then results."""

import hashlib
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = os.environ["WEBHOOK_SECRET"]
jobs: dict[str, dict[str, Any]] = {}


def is_valid(body: bytes, signature: str) -> bool:
    expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature.removeprefix("sha256="), expected)


class Callback(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not is_valid(body, self.headers.get("X-AgentX-Signature", "")):
            self.respond(401)
            return
        message = json.loads(body)
        assert message["timestamp"]
        if jobs.get(message["job_id"]) == message:
            self.respond(200)
            return
        jobs[message["job_id"]] = message
        match message["event"]:
            case "JOB_PROGRESS":
                progress = message["progress"]
                print("processed JOB_PROGRESS", progress["current_step"], progress["percentage"], flush=True)
            case "JOB_COMPLETED":
                print("processed JOB_COMPLETED", message["status"], message["results"], flush=True)
            case _:
                self.respond(400)
                return
        self.respond(200)

    def respond(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Callback)
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
