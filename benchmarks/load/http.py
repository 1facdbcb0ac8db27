"""HTTP/1.1 users: keep-alive, one request at a time. The answer is read strictly enough to know its end, its status and who gave it.

An answer that came in one piece and was seen before is known by its bytes (the backend repeats itself), so that the load stays cheap.
"""

from itertools import count
from time import time_ns

from benchmarks.load.flow import Flow, Run, User

MEMO_SIZE = 16  # a user: answers differ by user and by second
TRACE = b"@trace@"  # in a request: replaced by 16 hex digits that differ each time
MEMO_BYTES = 2048
TRACES = count(time_ns())


class HttpFlow(Flow):
    """One user's keep-alive connection."""

    def __init__(self, user: User, run: Run):
        super().__init__(user, run)
        self.reader = Answers(run.answer_header, head_only=user.request.startswith(b"HEAD "))
        self.memo: dict[bytes, str] = {}
        self.before, self.marked, self.after = user.request.partition(TRACE)

    def send(self) -> None:
        """See `Flow`."""
        assert self.transport
        self.transport.write(b"%b%016x%b" % (self.before, next(TRACES), self.after) if self.marked else self.user.request)

    def begin(self) -> None:
        """See `Flow`: a new connection starts with a new reader."""
        self.reader = Answers(self.run.answer_header, self.reader.head_only)
        super().begin()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        who = self.memo.get(data)
        if who is not None and not self.reader.started:
            return self.answered(who)
        whole = not self.reader.started
        try:
            answer = self.reader.feed(data)
        except ValueError as error:
            return self.failed(f"bad answer: {error}")
        if answer:
            self.take(answer, data if whole and len(data) <= MEMO_BYTES else b"")
        return None

    def take(self, answer: tuple[int, str, bool], data: bytes) -> None:
        """A whole answer is here; `data` is all of its bytes when they may be remembered."""
        status, who, keep = answer
        if not 200 <= status < 300:
            return self.failed(f"status {status}")
        if data and keep:
            if len(self.memo) >= MEMO_SIZE:
                self.memo.clear()
            self.memo[data] = who
        self.answered(who)
        if not keep:
            self.drop()
            self.reopen()
        return None

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol. The end of the connection may be the end of the answer (RFC 9112 section 6.3)."""
        answer = None if error or not self.transport else self.reader.closed()
        if answer is None:
            return super().connection_lost(error)
        self.transport = None
        return self.take(answer, b"")


class Answers:
    """Finds the ends of answers: feed bytes, get (status, answerer, keep-alive) once one is whole."""

    def __init__(self, answer_header: bytes, head_only: bool = False):
        self.answer_header = answer_header.lower()
        self.head_only = head_only
        self.buffer = b""
        self.answer: tuple[int, str, bool] | None = None
        self.left = 0  # body bytes to come; -1: chunked, -2: until the connection closes

    @property
    def started(self) -> bool:
        """Whether part of an answer is here."""
        return bool(self.buffer) or self.answer is not None

    def feed(self, data: bytes) -> tuple[int, str, bool] | None:
        """Take `data`; the answer when it is whole. Raises ValueError for what is no answer."""
        self.buffer = self.buffer + data if self.buffer else data
        if self.answer is None and not self.take_head():
            return None
        if not self.take_body():
            return None
        answer, self.answer = self.answer, None
        if self.buffer:
            raise ValueError("bytes after the answer")
        return answer

    def closed(self) -> tuple[int, str, bool] | None:
        """The connection has ended: the answer, if that was its end."""
        return self.answer if self.left == -2 else None

    def take_head(self) -> bool:
        """Read a head if a whole one is here; interim answers are skipped."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self.buffer = self.buffer[:end], self.buffer[end + 4 :]
        first, *lines = head.split(b"\r\n")
        if not first.startswith(b"HTTP/1."):
            raise ValueError(f"no status line: {first[:40]!r}")
        status = int(first[9:12])
        if 100 <= status < 200:
            return self.take_head()
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        keep = b"close" not in fields.get(b"connection", b"").lower()
        self.answer = (status, fields.get(self.answer_header, b"?").decode(), keep)
        self.left = self.framing(status, fields)
        return True

    def framing(self, status: int, fields: dict[bytes, bytes]) -> int:
        """How the body ends: its length, -1 or -2 as above (RFC 9112 section 6.3)."""
        if self.head_only or status in (204, 304):
            return 0
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            return -1
        return int(fields.get(b"content-length", b"-2"))

    def take_body(self) -> bool:
        """Drop body bytes; True once the body has ended."""
        if self.left >= 0:
            taken = min(self.left, len(self.buffer))
            self.left -= taken
            self.buffer = self.buffer[taken:]
            return not self.left
        if self.left == -2:
            self.buffer = b""
            return False
        return self.take_chunks()

    def take_chunks(self) -> bool:
        """Drop whole chunks; True after the last one and its trailers."""
        while True:
            line = self.buffer.find(b"\r\n")
            if line < 0:
                return False
            size = int(self.buffer[:line].split(b";")[0], 16)
            end = line + 2 + size + 2
            if not size:
                end = self.buffer.find(b"\r\n\r\n", line) + 4
                if end < 4:
                    return False
                self.buffer = self.buffer[end:]
                return True
            if len(self.buffer) < end:
                return False
            self.buffer = self.buffer[end:]
