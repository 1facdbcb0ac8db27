"""UDP users: each has a socket of its own and up to `in_flight` datagrams under way; one without an answer in time is lost and counted so.

A datagram is the user's message with a slot number at its end, so that answers may come in any order. All that a wake-up brings is read,
and all that it leads to is sent, in one system call each.
"""

import asyncio
import socket
from collections import deque
from time import perf_counter

from benchmarks.load.flow import Run, User, answerer
from benchmarks.mmsg import Batch, Outbox

BUFFER_BYTES = 1024 * 1024


class UdpFlow:
    """One user's socket."""

    def __init__(self, user: User, run: Run):
        self.user = user
        self.run = run
        self.messages = [user.request[:-4] + b"%04d" % slot for slot in range(run.in_flight)]
        self.slot_of = {message: slot for slot, message in enumerate(self.messages)}
        self.sent_at = [0.0] * run.in_flight  # 0.0: the slot is free
        self.due_at: deque[float] = deque()
        self.outbox = Outbox(self.messages)
        self.batch = Batch(run.in_flight, 65535 if len(user.request) > 1900 else 2048)
        self.socket = socket.socket(socket.AF_INET6 if ":" in user.host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)

    async def open(self) -> None:
        """Connect (which sends nothing) and send the first datagrams."""
        self.socket.connect((self.user.host, self.user.port))
        asyncio.get_running_loop().add_reader(self.socket, self.readable)
        if self.run.closed:
            self.send(range(self.run.in_flight), perf_counter())

    def send(self, slots: "range | list[int]", at: float) -> None:
        """Send the messages of `slots`; what the kernel does not take now is found lost later."""
        for slot in slots:
            self.sent_at[slot] = at
        try:
            self.outbox.send(self.socket, slots)
        except OSError as error:
            self.run.tally.errors[f"send: {error.strerror}"] += 1

    def due(self, at: float) -> None:
        """Open loop: a datagram is due now; it waits when all slots are taken."""
        if 0.0 in self.sent_at and not self.due_at:
            self.send([self.sent_at.index(0.0)], at)
        else:
            self.due_at.append(at)

    def readable(self) -> None:
        """Take what has come, and send what that leads to."""
        try:
            count = self.batch.recv(self.socket)
        except OSError as error:  # ICMP says that nobody is there
            self.run.tally.errors[f"receive: {error.strerror}"] += 1
            return
        now = perf_counter()
        free = [slot for index in range(count) if (slot := self.take(self.batch.message(index), now)) is not None]
        self.refill(free, now)

    def take(self, data: bytes, now: float) -> int | None:
        """Count one answer; returns the slot that it frees."""
        slot, who = self.slot_of.get(data), "echo"
        if slot is None:
            slot, who = self.find(data)
        if slot is None or not self.sent_at[slot]:
            self.run.tally.errors["garbled answer" if slot is None else "late or double answer"] += 1
            return None
        self.run.tally.record(self.user.name, self.user.expect, who, now - self.sent_at[slot])
        self.sent_at[slot] = 0.0
        return slot

    def find(self, data: bytes) -> tuple[int | None, str]:
        """The slot of an answer that is not a plain echo, and who gave it."""
        slot = int(data[-4:]) if data[-4:].isdigit() else len(self.messages)
        who = answerer(data, self.messages[slot]) if slot < len(self.messages) else None
        return (None, "") if who is None else (slot, who)

    def refill(self, free: list[int], now: float) -> None:
        """Use free slots again: all of them in the closed loop, as many as are due in the open one."""
        if self.run.stopping or not free:
            return None
        if self.run.closed:
            return self.send(free, now)
        while free and self.due_at:
            self.send([free.pop()], self.due_at.popleft())
        return None

    def check(self, now: float) -> None:
        """Called a few times a second: datagrams that take too long are lost."""
        lost = [slot for slot, at in enumerate(self.sent_at) if at and now - at > self.run.timeout]
        self.run.tally.errors["lost"] += len(lost)
        for slot in lost:
            self.sent_at[slot] = 0.0
        self.refill(lost, now)

    def finish(self) -> None:
        """The run is over."""
        self.run.tally.unsent += len(self.due_at)
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()
