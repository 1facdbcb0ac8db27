"""TCP users: a line goes, the same line comes back, perhaps with the answerer's name before it."""

from benchmarks.load.flow import Flow, answerer


class TcpFlow(Flow):
    """One user's connection; `user.request` ends with the only newline in it."""

    buffer = b""

    def begin(self) -> None:
        """See `Flow`."""
        self.buffer = b""
        super().begin()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if data == self.user.request and not self.buffer:
            return self.answered("echo")
        self.buffer += data
        if not self.buffer.endswith(b"\n"):
            return None
        data, self.buffer = self.buffer, b""
        who = answerer(data, self.user.request)
        return self.failed("garbled answer") if who is None else self.answered(who)
