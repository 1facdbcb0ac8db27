"""What a request costs in the HTTP/2 engine alone, beside hyper-h2: `python -m benchmarks.h2engine`.

No sockets: a client's frames go in, eight requests a read, and each is answered with a head and 13 bytes. Both take turns in rounds, in one
process; what is compared is its CPU time. "repeating": heads that come again; "unique": each has a field value that never came before.
"""

import sys
import time
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from hpack import Encoder

from carrier.wire.h2 import PREFACE, Engine, Limits, Memo, Section, Stream, encode
from carrier.wire.h2.frames import END_HEADERS, END_STREAM, HEADERS, frame, settings_frame, window_frame

ASKED = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/api/v1/items?page=3"),
    (b":authority", b"service.example:8080"),
    (b"user-agent", b"load/1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"x-user", b"john"),
    (b"cookie", b"session=0123456789abcdef"),
]
ANSWERED = [(b":status", b"200"), (b"content-type", b"text/plain"), (b"content-length", b"13")]
BODY = b"hello, world\n"
HELLO = PREFACE + settings_frame({}) + window_frame(0, 1 << 30)
AT_ONCE = 8
Side = Callable[[list[bytes]], int]


def reads(count: int, unique: bool) -> list[bytes]:
    """What a client sends after HELLO: `count` requests."""
    encoder, wire = Encoder(), []
    for n in range(count):
        more = [(b"x-trace-id", b"%032x" % (n * 0x9E3779B97F4A7C15))] if unique else []
        wire.append(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, encoder.encode(ASKED + more)))
    return [b"".join(wire[i : i + AT_ONCE]) for i in range(0, count, AT_ONCE)]


class _Answers:
    """A target that answers each request at once."""

    def __init__(self) -> None:
        self.block = encode(ANSWERED)
        self.answered = 0

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        stream.send_message(self.block, BODY)
        self.answered += 1

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None: ...
    def on_trailers(self, stream: Stream, section: Section) -> None: ...
    def on_drained(self, stream: Stream) -> None: ...
    def on_reset(self, stream: Stream, code: int, detail: str) -> None: ...
    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None: ...
    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_settings(self) -> None: ...


def ours(wire: list[bytes]) -> int:
    """Serve it all; how many were answered."""
    limits, target = Limits(), _Answers()
    engine = Engine(target, Memo(limits), limits)
    for data in (HELLO, *wire):
        engine.feed(data, 0.0)
        engine.take()
    return target.answered


def theirs(wire: list[bytes]) -> int:
    connection, answered = H2Connection(H2Configuration(client_side=False, header_encoding=None)), 0
    connection.initiate_connection()
    for data in (HELLO, *wire):
        for event in connection.receive_data(data):
            if isinstance(event, RequestReceived):
                connection.send_headers(event.stream_id, ANSWERED)
                connection.send_data(event.stream_id, BODY, end_stream=True)
                answered += 1
        connection.data_to_send()
    return answered


def cost(side: Side, wire: list[bytes]) -> float:
    """Microseconds of CPU a request."""
    begin = time.process_time()
    answered = side(wire)
    return 1e6 * (time.process_time() - begin) / answered


def main(count: int = 2000, rounds: int = 5) -> None:
    for kind in ("repeating", "unique"):
        wire = reads(count, kind == "unique")
        pairs = [(cost(ours, wire), cost(theirs, wire)) for _ in range(rounds)]
        mine, other = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        print(f"{kind:>9}: {mine:5.1f} us a request, hyper-h2 {other:5.1f}, ratio {other / mine:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
