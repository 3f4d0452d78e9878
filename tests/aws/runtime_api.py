"""AWS' Runtime API, a service, and a function that runs in AWS' real Python runtime.

    with deployed(folder, ROUTES, core.url) as function:
        answer = function.invoke(event)      # what the function returned
        function.service.requests            # what the service was sent

Source: the AWS documentation of the runtime API for custom runtimes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

DEADLINE_S = 60.0
"""For an invocation, on a busy machine; the first one includes the start."""
_PREFIX = "/2018-06-01/runtime/"


class InvocationFailed(Exception):
    """The function ended with an error; the text has its type and message."""


class Received(NamedTuple):
    """A request that the service got."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


Reply = tuple[int, list[tuple[str, str]], bytes]


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one segment

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write nothing."""

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = b""
            while size := int(self.rfile.readline(), 16):
                pieces += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return pieces
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@dataclass
class Service:
    """Records each request, and answers it as `reply` says."""

    requests: list[Received] = field(default_factory=list)
    reply: Callable[[Received], Reply] = lambda _: (
        200,
        [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")],
        b"ok",
    )
    url: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                got = Received(
                    self.command, self.path, self.headers.items(), self.read_body()
                )
                service.requests.append(got)
                self.send(*service.reply(got))

            do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

        return Handler


class Function:
    """A function in a process of its own, and the Runtime API that drives it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._events: queue.Queue[tuple[dict[str, Any], float]] = queue.Queue()
        self._results: queue.Queue[Any] = queue.Queue()

    def invoke(self, event: dict[str, Any], *, time_s: float = 30.0) -> Any:
        """Return what the function returns for *event*, within *time_s*.

        Raises:
            InvocationFailed: it raised.
        """
        self._events.put((event, time_s))
        result = self._results.get(timeout=DEADLINE_S)
        if isinstance(result, InvocationFailed):
            raise result
        return result

    def handler(self) -> type[BaseHTTPRequestHandler]:
        function = self

        class Handler(_Quiet):
            count: ClassVar[int] = 0

            def do_GET(self) -> None:
                assert self.path == f"{_PREFIX}invocation/next"
                event, time_s = function._events.get()
                Handler.count += 1
                deadline_ms = int((time.time() + time_s) * 1000)
                head = [
                    ("Lambda-Runtime-Aws-Request-Id", f"request-{Handler.count}"),
                    ("Lambda-Runtime-Deadline-Ms", str(deadline_ms)),
                    ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:x:1:f"),
                    ("Content-Type", "application/json"),
                ]
                with contextlib.suppress(ConnectionError):
                    self.send(200, head, json.dumps(event).encode())

            def do_POST(self) -> None:
                body = json.loads(self.read_body())
                if self.path.endswith("/response"):
                    function._results.put(body)
                else:
                    text = f"{body['errorType']}: {body['errorMessage']}"
                    function._results.put(InvocationFailed(text))
                self.send(202, [], b"{}")

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: the function may end its connections when it likes."""


@contextlib.contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    """Yield a service that listens."""
    service = Service()
    with _served(service.handler()) as authority:
        service.url = f"http://{authority}"
        yield service


@contextlib.contextmanager
def deployed(
    folder: Path,
    routes: str,
    core: str,
    *,
    handler: str = "gateway.aws.handler",
    path: str | None = None,
) -> Iterator[Function]:
    """Run *handler* with the route table *routes*, written to *folder*.

    `${CORE}` and `${UPSTREAM}` in it are the core and the service. *path* replaces the
    places from which the function imports the gateway, as an unpacked zip does.
    """
    (folder / "routes.yaml").write_text(routes, encoding="utf-8")
    with contextlib.ExitStack() as opened:
        service = opened.enter_context(serving())
        function = Function(service)
        api = opened.enter_context(_served(function.handler()))
        environ = {
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": api,
            "AWS_LAMBDA_FUNCTION_NAME": "gateway",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            "LAMBDA_TASK_ROOT": str(folder),
            "GATEWAY_CONFIG": "routes.yaml",
            "CORE": core,
            "UPSTREAM": service.url,
        }
        if path is not None:
            environ["PYTHONPATH"] = path
        log = opened.enter_context((folder / "out").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=folder,
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield function
        finally:
            process.kill()
            process.wait()
