"""How connections are accepted: one loop for all protocols whose clients connect, and what is common to what they have accepted.

A *connection* is an object of the listener's `connections` from its accept on, whatever it has said: an `Arrival` while it shakes hands
or is looked at, then the source of its session. There it is counted, limited, ticked, asked to make room, moved to a listener that takes
this one's place, and drained. Whoever closes calls `gone`.

When `max_connections` are there, one that is of no use to anybody gives its place (carrier/core/room.py). If all are being used, what
comes waits in the kernel's queue, unless the protocol can say that there are too many (`waits` False: it is accepted and told so). When
descriptors run short, accepting pauses for a moment. Before a listening socket is closed, what waits in its queue is accepted.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from carrier.core.address import Key, Place, bind_stream, plain
from carrier.core.idle import Idle
from carrier.core.listener import Listener
from carrier.core.room import PATIENCE, UNFINISHED, YOUNG, Room
from carrier.core.wheel import Wheel
from carrier.errors import Error, Problem
from carrier.options import port_of
from carrier.wire.forwarding import networks, trusts
from carrier.wire.introduction import Introduced, Introduction

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.stream import Socket

ACCEPTS = 64
"""Connections taken in one wake-up, so that a flood of them does not starve those that are there."""
ACCEPT_PAUSE = 0.05
"""Seconds without accepting when file descriptors run short."""
UNIX = "unix"
"""In `options.proxy_protocol`: who connects by a UNIX socket."""
INTRODUCTION = 5.0
"""Seconds that a proxy may take to say who it connects."""
UNSPOKEN = 1.0
"""Seconds that who has not said a word yet gets when the listener stops."""
SO_ATTACH_FILTER = 26
NO_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""Classic BPF on a listening TCP socket: drop what has the SYN bit in byte 13 of its header, pass the rest."""
TCP_BYTES_RECEIVED = 128
"""Offset of tcpi_bytes_received in struct tcp_info (linux/tcp.h)."""


class Connection(Protocol):
    """What a listener has accepted."""

    def tick(self, now: float) -> float | None:
        """Once a second, or when it is due (monotonic seconds): deadlines. Returns when they are to be looked at again, None: in a second
        (carrier/core/wheel.py)."""

    def standing(self, now: float) -> tuple[int, float] | None:
        """See `Occupant` of carrier/core/room.py."""

    def give_way(self) -> None:
        """Its place is needed by another: end."""

    def leave(self) -> None:
        """The listener is gone, or about to be: end as soon as nothing is in flight."""

    def moved(self, listener: Any) -> None:
        """This listener has taken the place of its own."""


class Met(socket.socket):
    """An accepted connection. peer: who has connected, as accept(2) said: a peer that has reset it by now has no name any more, and what it
    sent before is still there."""

    __slots__ = ("peer", "told")
    peer: Any
    told: Introduced | None
    """What a proxy in front has said of it."""


def met(like: socket.socket, descriptor: int, peer: Any) -> Met:
    """A connection of a listening socket, or of a kind with another one; non-blocking."""
    found = Met(like.family, like.type, like.proto, descriptor)
    found.setblocking(False)
    found.peer, found.told = peer, None
    return found


def anew(connection: socket.socket) -> Met:
    """A connection under a new descriptor, because a transport may not take over one that the loop has watched; the other is closed."""
    found = met(connection, os.dup(connection.fileno()), getattr(connection, "peer", None))
    found.told = getattr(connection, "told", None)
    connection.close()
    return found


def check_proxies(options: Mapping[str, Any], path: str, unix: bool = False) -> list[Problem]:
    """What is wrong with `options.proxy_protocol`. unix: the listener's peers have no addresses."""
    given = options.get("proxy_protocol")
    allowed = f'["{UNIX}"]' if unix else "a list of CIDRs"
    try:
        if not unix:
            networks(given)
        elif given not in (None, [], [UNIX]):
            raise ValueError("who connects by a file has no address: its mode and owner say who may (options.mode, user, group)")
    except (ValueError, TypeError) as exc:
        return [Problem(str(exc), f"{path}.proxy_protocol", seen=repr(given), allowed=allowed)]
    return []


def _proxies(given: Any) -> tuple[Sequence[IPv4Network | IPv6Network], bool]:
    """`options.proxy_protocol`: networks, and whether those who connect by a UNIX socket are meant."""
    return ((), True) if isinstance(given, list) and UNIX in given else (networks(given), False)


class Acceptor(Listener):
    """A listener of connections. `accepted` makes something of each; see the module."""

    waits: ClassVar[bool] = True

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        self._connections: Wheel[Any] = Wheel()
        self.max_connections = float("inf")
        self.idle = Idle(0)
        self.room: Room[Any] = Room(not self.waits)
        self.accepting = False
        self.held = False
        """There is too much in the whole process: accept nothing."""
        self.opened = self.stopped = False
        self.proxies, self.unix_proxies = _proxies(conf.options.get("proxy_protocol"))
        """Who introduces those that it connects (`options.proxy_protocol`): of these networks, or by a UNIX socket."""

    def accepted(self, connection: socket.socket) -> Socket | None:
        """The source that a connection is, which is non-blocking; None: it arrives (`arrive`). Raises OSError: it is broken already."""
        raise NotImplementedError

    def enter(self, source: Socket) -> None:
        """A source is there: it is a connection from now on, and by default a session."""
        self._connections.add(source)
        self.begin(source)

    # ------------------------------------------------------------------ the loop

    def start(self) -> None:
        self.opened = True
        self._go()

    def _go(self) -> None:
        """Accept, unless something stands against it. Idempotent."""
        if not self.accepting and self.opened and not self.held and not self.stopped:
            self.accepting = True
            for sock in self.bound:
                self.env.loop.add_reader(sock, self._accept, sock)

    def _pause(self, limit: str = "") -> None:
        """Accept no more for now; `limit` says why."""
        if limit:
            self.hit(limit)
        if self.accepting:
            self.accepting = False
            for sock in self.bound:
                self.env.loop.remove_reader(sock)

    def hold(self) -> None:
        if not self.held:
            self.held = True
            self._pause("overload")

    def go_on(self) -> None:
        self.held = False
        self._go()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS):
            if len(self._connections) >= self.max_connections:
                if not somebody_waits(sock):
                    return
                if not self.make_room() and self.waits:
                    self._pause("max_connections")
                    return
            if not self._take(sock):
                return

    def _has_room(self) -> bool:
        return len(self.connections) < self.max_connections or self.make_room()

    def _take(self, sock: socket.socket) -> bool:
        """Accept one connection; False: there is none, or no descriptor for it."""
        try:
            connection = met(sock, *sock._accept())  # type: ignore[attr-defined]  # as socket.accept does, without an object of its own
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:  # gone before we looked at it
            return True
        except OSError:  # out of file descriptors or memory: let what is there finish
            if not self.stopped:
                self._pause("descriptors")
                self.env.loop.call_later(ACCEPT_PAUSE, self._go)
            return False
        if self._is_proxy(connection):
            self.arrive(connection, self._introduced)
            return True
        try:
            source = self.accepted(connection)
        except OSError:  # it was reset before it was looked at
            connection.close()
            return True
        if source is not None:
            self.enter(source)
        return True

    def _is_proxy(self, connection: Met) -> bool:
        """Does it begin with a header? Of a UNIX socket all do: nobody else can open its file."""
        if connection.family == socket.AF_UNIX:
            return self.unix_proxies and connection.type == socket.SOCK_STREAM
        return bool(self.proxies) and trusts(self.proxies, plain(connection.peer[0]))

    async def _introduced(self, arrival: Arrival) -> None:
        """Read who is meant, and go on with the connection as if it came from there. Raises Error, OSError."""
        sock, loop = arrival.sock, self.env.loop
        introduction = Introduction()
        arrival.awaits = "proxy_protocol"
        try:
            async with asyncio.timeout(INTRODUCTION):
                while introduction.more:
                    data = await loop.sock_recv(sock, introduction.more)
                    if not data:
                        return
                    introduction.feed(data)
        except Error as error:
            self.env.trouble(self, error)
            raise
        arrival.awaits = "handshake"
        arrival.sock = known = anew(sock)
        known.told = introduction.said
        listener = arrival.listener
        source = listener.accepted(known)
        if source is not None:
            arrival.became(source)
        else:  # it arrives anew
            listener.connections.discard(arrival)

    # ------------------------------------------------------------------ connections

    @property
    def connections(self) -> Wheel[Any]:
        """Everything that was accepted and is not gone (`Connection`)."""
        return self._connections

    def gone(self, connection: Any) -> None:
        """A connection has ended: somebody else may have its place. Idempotent."""
        self.connections.discard(connection)
        if not self.accepting and len(self._connections) < self.max_connections:
            self._go()

    def make_room(self) -> bool:
        leaver = self.room.choose(self.connections, self.env.loop.time())
        if leaver is None:
            return False
        self.connections.discard(leaver)
        leaver.give_way()
        return True

    def arrive(self, connection: socket.socket, work: Callable[[Arrival], Coroutine[Any, Any, None]]) -> None:
        """Find out, in a task, what becomes of a connection."""
        self.connections.add(Arrival(self, connection, work))

    # ------------------------------------------------------------------ life

    def stop(self) -> None:
        """Accept what waits in the queue, then no more, and give the address back; what is there goes on."""
        if self.stopped:
            return
        self.stopped = True
        self._pause()
        if self.opened and self.heir is None:
            self._empty()
        super().stop()
        for connection in list(self.connections):
            connection.leave()

    def vacate(self) -> Callable[[], None] | None:
        self._pause()
        self._empty()
        places = [Place(sock) for sock in self.bound]
        for sock in self.bound:  # at once: who has it, too, closes it later
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.release()
        self.accepting = False

        def again() -> None:
            self.bound = [place.bind() for place in places]
            self._go()

        return again

    def _empty(self) -> None:
        """Whoever has connected is in the queue, and closing would reset her: take her in first. Who would come while we do is not
        answered by the kernel, tries again a second later, and finds nobody or our successor."""
        for sock in self.bound:
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.proto != socket.IPPROTO_SCTP:
                _close_door(sock)
            while self._take(sock):
                pass

    def successor(self) -> Any:
        """Who has this listener's connections by now: itself, or the last one that took its place and goes on with them."""
        heir = self.heir
        return heir.successor() if isinstance(heir, Acceptor) and heir.continues(self) else self

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        if isinstance(old, Acceptor) and self.continues(old):
            self.idle.inherit(old.idle)
            for connection in self._connections.take(old._connections):
                self.env.guard("a connection that moves", connection.moved, self)

    def tick(self, now: float) -> None:
        super().tick(now)
        self._connections.turn(now, self._tick_failed)
        self._go()  # somebody who was of use may be of none by now

    def _tick_failed(self, connection: Any, exc: Exception) -> None:
        message = f"the tick of a connection to {self.name} failed: {exc}"
        self.env.loop.call_exception_handler({"message": message, "exception": exc})


class AtPort(Acceptor):
    """One that listens at `spec.port`, of `spec.address` or of every address."""

    number: ClassVar[int] = socket.IPPROTO_TCP
    """The protocol's, as the kernel counts them; its name is `transport`."""

    @property
    def port(self) -> int:
        """The bound port (the kernel's choice for port 0)."""
        return int(self.bound[0].getsockname()[1])

    def key(self) -> Key:
        return self.transport, "127.0.0.1" if self.loopback else str(self.spec.get("address") or "*"), port_of(self.spec)

    async def bind(self) -> None:
        address = self.spec.get("address")
        host = "127.0.0.1" if self.loopback else address if isinstance(address, str) else None
        self.bound = bind_stream(self.name, host, self.spec.get("port"), self.number)


class Arrival:
    """A connection of which nobody knows yet what it will be: `work`, a task, waits for its hello, its handshake, its first bytes.

    `work` ends with `became`, or without: then the connection is closed, and counted as what it `awaits`.
    """

    __slots__ = ("awaits", "inner", "listener", "since", "sock", "task")
    session = None

    def __init__(self, listener: Acceptor, sock: socket.socket, work: Callable[[Arrival], Coroutine[Any, Any, None]]) -> None:
        self.listener: Any = listener
        self.awaits = "handshake"
        self.inner: Any = None
        """What it will be, if that is made beforehand; it has a `listener`, too."""
        self.sock = sock
        loop = listener.env.loop
        self.since = loop.time()
        self.task = loop.create_task(work(self))
        self.task.add_done_callback(self._done)

    def became(self, source: Socket) -> None:
        """It is the source of a session, and no arrival any more."""
        self.listener.connections.discard(self)
        self.listener.enter(source)

    def done(self) -> Arrival:
        """`inner` takes its place."""
        self.inner = None
        return self

    def _done(self, task: asyncio.Task[None]) -> None:
        listener = self.listener
        exc = task.exception() if not task.cancelled() else None
        quiet = False
        if self in listener.connections:
            listener.hit(self.awaits)
            self.sock.close()
            listener.gone(self)
            quiet = isinstance(exc, (OSError, Error))  # nobody is there to tell
        if exc is not None and not quiet:
            listener.env.loop.call_exception_handler({"message": f"a connection to {listener.name} failed: {exc}", "exception": exc})

    def moved(self, listener: Acceptor) -> None:
        self.listener = listener
        if self.inner is not None:
            self.inner.listener = listener

    def standing(self, now: float) -> tuple[int, float] | None:
        return (UNFINISHED if now - self.since >= PATIENCE else YOUNG), self.since

    def give_way(self) -> None:
        self.listener.hit("max_connections_unfinished")
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self.listener.connections.discard(self)
        self.task.cancel()
        self.sock.close()

    def leave(self) -> None:
        self.since = max(self.since, self.listener.env.loop.time())

    def tick(self, now: float) -> None:
        """Its own work knows its limits; but who has said nothing is not waited for when the listener is gone."""
        if self.listener.stopped and now - self.since >= UNSPOKEN and not has_spoken(self.sock):
            self.close()


def somebody_waits(sock: socket.socket) -> bool:
    """Is there a connection in the queue of a listening socket?"""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def has_spoken(sock: socket.socket) -> bool:
    """Has the peer sent a byte yet, read or not? True where the kernel cannot tell."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_BYTES_RECEIVED + 8)
    except OSError:
        return True
    return len(info) < TCP_BYTES_RECEIVED + 8 or struct.unpack_from("=Q", info, TCP_BYTES_RECEIVED)[0] > 0


def _close_door(sock: socket.socket) -> None:
    """Let no further handshake of TCP begin, while those that are under way end and wait to be accepted (socket(7), SO_ATTACH_FILTER).
    Where the kernel refuses, who connects in the very moment of closing is reset."""
    code = b"".join(struct.pack("=HBBI", *step) for step in NO_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(NO_SYN), ctypes.addressof(program)))
    except OSError:
        pass
