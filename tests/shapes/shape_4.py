"""Shape 4, as its tutorial writes it: a bare hex signature; 400 without one, 403 for a wrong one."""

import hashlib
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"]
finished: dict[str, str] = {}


class AgentWebhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        signature = self.headers.get("X-Agent-Signature")
        if not signature:
            self.finish_with(400, "missing signature")
            return
        digest = hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(digest, signature):
            self.finish_with(403, "bad signature")
            return
        event = json.loads(raw)
        if event["event_type"] not in ("task.completed", "task.failed"):
            self.finish_with(400, "unexpected event")
            return
        if event["task_id"] in finished:
            self.finish_with(200, "already processed")
            return
        finished[event["task_id"]] = event["status"]
        print("processed", event["event_type"], event["task_id"], event["status"], flush=True)
        self.finish_with(200, "ok")

    def finish_with(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), AgentWebhook)
    print(f"Listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
