"""A collector for tests: takes OTLP over HTTP on loopback, decodes its protobuf, and answers as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra otel is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


class Receiver:
    """status: what it answers; silent: it reads and never answers. spans, resource, fields: what came."""

    def __init__(self) -> None:
        self.status = 200
        self.silent = threading.Event()
        self.leave = threading.Event()
        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.fields: dict[str, str] = {}
        self.path = ""
        self.calls = 0
        self.url = ""

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        asked = ExportTraceServiceRequest.FromString(body)
        for of_resource in asked.resource_spans:
            self.resource = said(of_resource.resource)
            for scope in of_resource.scope_spans:
                self.spans += scope.spans


def said(thing: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in thing.attributes}


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.calls += 1
            found.path, found.fields = self.path, {name.lower(): value for name, value in self.headers.items()}
            if found.silent.is_set():
                found.leave.wait(30)
                return
            if found.status == 200:
                found.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        found.leave.set()
        server.shutdown()
        server.server_close()
        thread.join()
