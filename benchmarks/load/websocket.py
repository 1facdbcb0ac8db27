"""WebSocket users: a handshake, then binary messages that come back as they went. The answerer is named by a header of the 101 answer."""

import re

from benchmarks import frames
from benchmarks.load.flow import Flow, Run, User

MASK = b"\x5a\x17\xc3\x68"  # a fixed one makes the frame once; no server can tell


class WebSocketFlow(Flow):
    """One user's WebSocket."""

    def __init__(self, user: User, run: Run):
        super().__init__(user, run)
        self.frame = frames.build(user.request, mask=MASK)
        self.echo = frames.build(user.request)
        self.who = "?"
        self.buffer = b""
        self.accept = b""

    def begin(self) -> None:
        """See `Flow`: here the handshake goes first."""
        self.buffer = b""
        host = f"{self.user.host}:{self.user.port}"
        head, self.accept = frames.request(host, self.user.path, self.user.headers)
        assert self.transport
        self.transport.write(head)

    def send(self) -> None:
        """See `Flow`."""
        assert self.transport
        self.transport.write(self.frame)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if data == self.echo and not self.buffer and self.ready:
            return self.answered(self.who)
        self.buffer += data
        return self.take_frames() if self.ready else self.take_handshake()

    def take_handshake(self) -> None:
        """Read the 101 answer when it is whole; another status ends the connection."""
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return None
        if not head.startswith(b"HTTP/1.1 101 ") or self.accept not in head:
            return self.failed(f"handshake: status {head[9:12].decode(errors='replace')}")
        self.buffer = rest
        found = re.search(rb"\r\n%b: *([^\r]*)" % re.escape(self.run.answer_header), head, re.IGNORECASE)
        self.who = found[1].decode() if found else "echo"
        self.ready = True
        return self.next()

    def take_frames(self) -> None:
        """Read frames that did not come as one piece, or are not the echo."""
        found, self.buffer = frames.split(self.buffer)
        for opcode, payload in found:
            if opcode == frames.PING and self.transport:
                self.transport.write(frames.build(payload, frames.PONG, MASK))
            elif opcode == frames.CLOSE:
                return self.failed(f"closed with code {int.from_bytes(payload[:2], 'big')}")
            elif opcode != frames.PONG and payload != self.user.request:
                return self.failed("garbled answer")
            elif opcode != frames.PONG:
                self.answered(self.who)
        return None
