"""Servers that score answers, as an operator may have them: one of their own, and vLLM's score API."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Scorer:
    """Answers ``POST /check`` and ``POST /score`` by a function of the answer.

    Args:
        score: What an answer is worth; an exception is answered with status 500.
        delay_s: How long it takes to say so.
    """

    def __init__(self, score, *, delay_s=0.0):
        self.asked = []
        scorer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                scorer.asked.append((self.path, body, dict(self.headers)))
                time.sleep(delay_s)
                answer = body["answer"] if self.path == "/check" else body["documents"]
                try:
                    found, status = score(answer), 200
                except ValueError:
                    found, status = None, 500
                scored = {"score": found} if self.path == "/check" else {"data": [{"index": 0, "score": found}]}
                content = json.dumps(scored).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="scorer")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
