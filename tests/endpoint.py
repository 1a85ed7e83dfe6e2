"""A local OpenAI-compatible endpoint that answers as a test's script says."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Server:
    """A local endpoint that follows a script; the last line of the script is repeated."""

    address: str
    script: list[Reply] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def next_reply(self) -> Reply:
        return self.script[min(len(self.requests), len(self.script)) - 1]


def completion(text: str | None = "Light scatters.", reason: str = "stop") -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]})


@contextmanager
def serve() -> Iterator[Server]:
    """A server that answers every question with a completion, until its script is changed."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                found.requests.append(body | {"path": self.path})
                found.headers.append(dict(self.headers))
                found.running += 1
                found.most_running = max(found.most_running, found.running)
                reply = found.next_reply()
            time.sleep(reply.seconds)
            with lock:
                found.running -= 1
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that gave up is what some tests are about."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        found = Server(address=f"http://127.0.0.1:{http.server_address[1]}/v1", script=[Reply(body=completion())])
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield found
        http.shutdown()
