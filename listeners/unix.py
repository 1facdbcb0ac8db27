"""UNIX socket listener: `mode` stream (connections), seqpacket (connections of messages) or dgram (one socket, a session per address).

The file is made when the listener is bound and removed when it stops; a file that nobody listens at any more is replaced. A name that
begins with "@" is abstract (unix(7)). `mode`, `user` and `group` of the file are options; with them a proxy may be let in that says who has
connected to it (`proxy_protocol: [unix]`).

A dgram peer is answered only if it has bound an address; all those that have not share one session, which cannot be answered. Its replies
wait, bounded, while the peer's queue is full, because the kernel does not say when there is room in it; a session on which nothing moves
ends after `idle_timeout`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.accepting import check_proxies
from carrier.core.address import BACKLOG, described
from carrier.core.idle import Idle
from carrier.errors import Error, Problem, from_os
from carrier.hops.bytesocket import ByteSocket
from carrier.hops.bytesource import Accepted
from carrier.hops.packetsocket import LONGEST, READS, PacketSocket
from carrier.hops.unixsocket import MODES, address_of, check_file, check_mode, closed_to_others, give, identity, mode_of, remove_stale
from carrier.options import check_numbers, numbers
from listeners.tcp import TcpListener

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.address import Key
    from carrier.core.env import Env
    from carrier.core.listener import Listener
    from carrier.core.session import Session
    from carrier.core.spec import Kind
    from carrier.core.stream import Socket
    from carrier.wire.introduction import Introduced

OPTIONS: Mapping[str, float] = {"track": 0, "max_connections": 4096, "half_close_timeout": 300, "idle_timeout": 0}
"""Limits (connections or dgram peers, seconds); 0 means none."""
FILE = ("mode", "user", "group")
"""Options of the file."""
DGRAM_IDLE = 60.0
"""The default of idle_timeout for dgram: such a session has no other end."""
AGAIN = 0.002
"""Seconds after which a reply that found its peer's queue full is tried again."""


class UnixListener(TcpListener):
    """`spec: {protocol: UnixDomainSocket, filename, mode}`, `options`: see OPTIONS."""

    protocol = "UnixDomainSocket"
    privileged = {"protocol": "reaches programs of this machine"}
    fields = {"filename": "path, or @name", "mode": "stream (default), dgram, seqpacket"}

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        self.filename = str(conf.spec.get("filename") or conf.spec.get("address") or "")
        self.mode = mode_of(conf.spec)
        if self.unix_proxies and self.mode != "stream":
            raise Error("config", f'"{conf.name}": only a stream begins with a PROXY header (options.proxy_protocol), not mode {self.mode}')
        self.kind = "datagram" if self.mode == "dgram" else "byte"
        limits = numbers(conf.options, {**OPTIONS, "idle_timeout": DGRAM_IDLE if self.mode == "dgram" else 0})
        self.idle = Idle(limits["idle_timeout"], limits["half_close_timeout"])
        self.peers: dict[str | None, UnixPeer] = {}
        """dgram: by address; None: all who have none."""
        self.dropped: dict[str, int] = {}
        """dgram: messages dropped, by reason."""
        self.owner: tuple[int, int] | None = None
        """The file that is this listener's to remove: device and inode. One that somebody else has put in its place is not."""

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        if "filename" not in spec and "address" in spec:  # as endpoints of a cluster say it
            spec = {"filename" if name == "address" else name: value for name, value in spec.items()}
        found = super().check(spec, path) + check_mode(spec, path)
        name = spec.get("filename")
        if not isinstance(name, str) or not name or len(os.fsencode(name)) > 107:
            wrong = "needs 'filename'" if name is None else f"expected a path of at most 107 bytes, got {name!r}"
            found.append(Problem(wrong, f"{path}.filename", seen=repr(name), allowed=cls.fields["filename"]))
        return found

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return (
            check_numbers(options, OPTIONS, path, (*FILE, "proxy_protocol"))
            + check_file(options, path)
            + check_proxies(options, path, True)
        )

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        return super().kind_of(spec) if mode_of(spec) == "stream" else "datagram"

    # ------------------------------------------------------------------ life

    def key(self) -> Key:
        return f"unix {self.mode}", self.filename, -1

    def local(self) -> bool:
        return True

    async def bind(self) -> None:
        sock = socket.socket(socket.AF_UNIX, MODES[self.mode] | socket.SOCK_NONBLOCK)
        try:
            remove_stale(self.filename)
            with closed_to_others(self.options):
                sock.bind(address_of(self.filename))
            self.owner = identity(self.filename) if self.filename[:1] != "@" else None
            give(self.filename, self.options)
            if self.mode != "dgram":
                sock.listen(BACKLOG)
        except (OSError, ValueError) as exc:
            sock.close()
            self._unlink()
            reason = from_os(exc, "carrier").detail if isinstance(exc, OSError) else str(exc)
            raise Error("bind", f'"{self.name}": Could not bind to {self.filename!r}: {reason}') from None
        self.bound = [sock]

    def take_over(self, old: Listener) -> bool:
        return isinstance(old, UnixListener) and super().take_over(old)

    def continues(self, old: Listener) -> bool:
        return super().continues(old) and isinstance(old, UnixListener) and old.mode == self.mode

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        assert isinstance(old, UnixListener)
        if old.filename == self.filename:
            self.owner, old.owner = old.owner, None
            self.env.guard(f"mode and owner of {self.filename}", give, self.filename, self.options)
        if self.continues(old):
            self.peers |= old.peers
            old.peers.clear()
            for peer in self.peers.values():
                peer.listener, peer.sock = self, self.bound[0]

    def _go(self) -> None:
        if self.mode != "dgram":
            super()._go()
        elif self.opened and not self.stopped and not self.accepting:
            self.accepting = True
            self.env.loop.add_reader(self.bound[0], self._datagrams)

    def blocks(self, key: Key | None) -> bool:
        return key is not None and key[0].startswith("unix ") and key[1] == self.filename

    def vacate(self) -> Callable[[], None] | None:
        """The file is put aside, so that it can come back as it is; what is connected to it needs no name."""
        if self.filename[:1] == "@":
            return super().vacate()
        self._pause()
        if self.mode != "dgram":
            self._empty()
        name, self.filename = self.filename, f"{self.filename}.{os.getpid()}"
        try:
            os.rename(name, self.filename)
        except OSError:
            self.filename = name
            self._go()
            return None

        def again() -> None:
            aside, self.filename = self.filename, name
            os.rename(aside, name)
            self._go()

        return again

    def release(self) -> None:
        """A dgram socket lives until its last session has ended."""
        self._unlink()
        if self.mode != "dgram" or not self.live:
            super().release()

    def _unlink(self) -> None:
        owner, self.owner = self.owner, None
        if owner is not None and identity(self.filename) == owner:
            try:
                os.unlink(self.filename)
            except OSError:
                pass  # somebody else has removed it

    # ------------------------------------------------------------------ connections

    def accepted(self, connection: socket.socket) -> Socket:
        return UnixStream(self, connection) if self.mode == "stream" else UnixMessages(self, connection)

    def session_name(self, session: Session) -> str:
        return self.env.names.give(session, f"UNIX:{self.name}-{session.number}")

    def metadata(self, session: Session) -> dict[str, Any]:
        found: dict[str, Any] = {"UNIX": {"filename": self.filename}}
        told: Introduced | None = getattr(session.source, "told", None)
        return found | described(told.peer, told.local, told.secured()) if told is not None else found

    def ended(self, session: Session) -> None:
        super().ended(session)
        if self.stopped and self.mode == "dgram" and not self.live:
            self.release()

    # ------------------------------------------------------------------ datagrams

    def _datagrams(self) -> None:
        for _ in range(READS):
            if not self.bound:
                return
            try:
                data, address = self.bound[0].recvfrom(LONGEST)
            except OSError:  # nothing there, or an error of an earlier reply
                return
            peer = self.peers.get(address) or self._peer(address)
            if peer is not None:
                peer.messages_in += 1
                peer.bytes_in += len(data)
                if peer.held:
                    self.drop("upstream-full")
                    continue
                peer.to.data(data)
                peer.to.flush()

    def _peer(self, address: str | None) -> UnixPeer | None:
        if self.stopped or len(self.connections) >= self.max_connections:
            self.drop("stopped" if self.stopped else "full")
            return None
        peer = self.peers[address] = UnixPeer(self, address)
        self.enter(peer)
        return None if peer.closed else peer

    def drop(self, reason: str) -> None:
        """Count a datagram that goes nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class UnixStream(Accepted, ByteSocket):
    """An accepted connection of bytes. told: whom a proxy in front has introduced, peer: that client's host and port."""

    __slots__ = ("listener", "peer", "told")

    def __init__(self, listener: UnixListener, sock: socket.socket) -> None:
        self.listener = listener
        self.told: Introduced | None = getattr(sock, "told", None)
        self.peer = self.told.peer if self.told is not None else ("", 0)
        super().__init__(listener.env.loop, sock, "downstream")


class UnixMessages(Accepted, PacketSocket):
    """An accepted connection of messages."""

    __slots__ = ("listener",)

    def __init__(self, listener: UnixListener, sock: socket.socket) -> None:
        self.listener = listener
        super().__init__(listener.env.loop, sock, "downstream")


class UnixPeer(Accepted, PacketSocket):
    """One peer of a dgram listener, which owns the socket."""

    __slots__ = ("address", "held", "listener")
    anew = True

    def __init__(self, listener: UnixListener, address: str | None) -> None:
        self.held = False
        self.listener = listener
        super().__init__(listener.env.loop, listener.bound[0], "downstream", ends=False, half=False)
        self.address = address

    def tick(self, now: float) -> None:
        """See `Connection`: an idle peer is forgotten, without an error, because it has no other end."""
        if self.listener.idle.overdue(self, now) is not None:
            self.finish()

    def transmit(self, data: bytes) -> None:
        if self.address is None:
            self.lost()
        else:
            self.sock.sendto(data, self.address)

    def watch(self) -> None:
        self.loop.call_later(AGAIN, self._again)

    def unwatch(self) -> None: ...

    def _again(self) -> None:
        self._writable()
        if self.pending and not self.closed:
            self.watch()

    def pause(self) -> None:
        """Other peers write to the same socket, so it is read on: while the next hop is full, what comes is dropped and counted."""
        self.held = True

    def resume(self) -> None:
        self.held = False

    def release(self) -> None:
        self.listener.peers.pop(self.address, None)
