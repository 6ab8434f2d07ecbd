"""A small HTTP server that answers as a node does, from a script, and notes what it was asked."""

import http.server
import json
import threading
from contextlib import contextmanager
from typing import cast


class Node(http.server.ThreadingHTTPServer):
    """Answers from `answers`: (method, path) -> a list of (status, result or error), the last
    one for good; an error's `sentence` and `retry_after`, a header, are sent beside it. `asked`
    has the requests as (method, path, body, headers)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, method, path, *answers):
        self.answers[method, path] = list(answers)

    def bodies(self, path):
        return [body for _, asked, body, _ in self.asked if asked == path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        node = cast("Node", self.server)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        node.asked.append((self.command, self.path, body, dict(self.headers)))
        known = node.answers.get((self.command, self.path))
        status, value = (404, {"code": "not_found"}) if known is None else known[0]
        if known and len(known) > 1:
            known.pop(0)
        value = value if status == 200 else dict(value)
        retry_after = None if status == 200 else value.pop("retry_after", None)
        envelope = (
            {"result": value, "status": "ok", "time": 0.0}
            if status == 200
            else {"status": {"error": value.pop("sentence", "no such route")}, "error": value}
        )
        raw = json.dumps(envelope).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(raw)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(raw)

    # the library looks for these names
    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815


@contextmanager
def stand_in_node():
    """Run one while the block runs."""
    server = Node()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
