"""UDP listener: one socket, a session per peer address; or `singleton`: one connected peer, one session from the start.

Modes as in l7mp (contract, section 2): `singleton` when `connect` names address and port, else `server`; a half-specified `connect`
filters peers. A session ends when it was idle for `idle_timeout`, or, while nobody has answered it, for `answer_timeout`; when the
listener is full, sessions that were never answered go first, oldest first, and then the new peer is refused. One coarse timer
serves all. Replies go only to the peer that asked.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from carrier import config
from carrier.cluster import Env
from carrier.errors import Error, Problem, from_os
from carrier.listener import Key, Listener, bind_error, plain
from carrier.resolve import literal
from carrier.session import Session
from carrier.stream import NOWHERE, Socket

MAX_DATAGRAM = 65_535
RECEIVES = 64
"""Datagrams taken in one wake-up, so that a flood does not starve the other listeners."""
BUFFER = 4 << 20
"""Receive and send buffer asked of the kernel, in bytes; it may grant less."""


class UdpListener(Listener):
    """`spec: {protocol: UDP, port, address, connect: {address, port}, options: {mode}}`, limits in `options`."""

    protocol = "UDP"
    kind = "datagram"
    fields = {
        "port": "0..65535",
        "address": "IP address to bind to",
        "connect": "{address, port} of the only peer, or a filter",
        "options": "{mode: server | singleton}",
    }

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        connect = conf.spec.get("connect") or {}
        self.connect_host: str | None = connect.get("address")
        self.connect_port: int | None = connect.get("port")
        both = self.connect_host is not None and self.connect_port is not None
        mode = (conf.spec.get("options") or {}).get("mode")
        self.singleton = mode == "singleton" or (mode is None and both)
        if self.singleton and not both:
            raise Error(
                "config",
                "Singleton mode requested but either connect.address or connect.port is not defined (or neither): no remote to connect to",
            )
        self.max_sessions = int(self.options.get("max_sessions", 4096))
        self.idle_timeout = float(self.options.get("idle_timeout", 60))
        self.answer_timeout = float(self.options.get("answer_timeout", 5))
        self.peers: dict[Any, UdpPeer] = {}
        self.dropped: dict[str, int] = {}
        """Datagrams dropped, by reason."""
        self.sock: socket.socket | None = None

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path)
        connect = spec.get("connect")
        if connect is not None and not isinstance(connect, dict):
            found.append(Problem(f"expected an object, got {connect!r}", f"{path}.connect", seen=repr(connect), allowed="{address, port}"))
        elif connect and (port := connect.get("port")) is not None and (not isinstance(port, int) or not 1 <= port <= 65535):
            found.append(Problem(f"expected a port 1..65535, got {port!r}", f"{path}.connect.port", seen=repr(port), allowed="1..65535"))
        options = spec.get("options")
        mode = options.get("mode") if isinstance(options, dict) else options
        if mode not in (None, "server", "singleton"):
            found.append(Problem(f"unknown mode {mode!r}", f"{path}.options.mode", seen=repr(mode), allowed="server, singleton"))
        return found

    # ------------------------------------------------------------------ life

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.loopback else str(self.spec.get("address") or "0.0.0.0")

    @property
    def port(self) -> int:
        """The bound port (the kernel's choice for port 0)."""
        return int(self.bound[0].getsockname()[1])

    def key(self) -> Key:
        return "udp", self.host, int(self.spec["port"])

    async def bind(self) -> None:
        address = literal(self.host, self.spec["port"])
        if address is None:
            raise Error("bind", f'"{self.name}": expected an IP address to bind to, got {self.host!r}')
        sock = socket.socket(address[0], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            if address[0] == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if self.host == "::" else 1)
            sock.bind(address[1])
        except OSError as exc:
            sock.close()
            reason = {98: "EADDRINUSE", 99: "EADDRNOTAVAIL", 13: "EACCES"}.get(exc.errno or 0)
            if reason is None:
                raise bind_error(self.name, self.host, self.spec["port"], exc) from None
            where = f"{self.host}:{self.spec['port']}"
            raise Error("bind", f'UDPListener.run: "{self.name}": Could not bind to {where}: bind {reason} {where}') from None
        self.bound = [sock]

    def start(self) -> None:
        self.sock = self.bound[0]
        self.env.loop.add_reader(self.sock, self._readable)
        if self.singleton:
            found = literal(str(self.connect_host), int(self.connect_port or 0))
            if found is not None:
                self._peer(found[1])

    def stop(self) -> None:
        """New peers are not served any more; the socket lives until the last session has ended."""
        if self.sock is not None and not self.peers:
            self._release()
        self.max_sessions = 0

    def _release(self) -> None:
        for sock in self.bound:
            self.env.loop.remove_reader(sock)
            sock.close()
        self.bound = []
        self.sock = None

    # ------------------------------------------------------------------ datagrams

    def _readable(self) -> None:
        sock = self.sock
        assert sock is not None
        peers = self.peers
        for _ in range(RECEIVES):
            try:
                data, address = sock.recvfrom(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error for an earlier reply: that peer's session ends by its timeout
                continue
            peer = peers.get(address) or self._peer(address)
            if peer is not None:
                peer.bytes_in += len(data)
                peer.messages_in += 1
                peer.to.data(data)
                peer.to.flush()
            if self.sock is None:
                return

    def drop(self, reason: str) -> None:
        """Count a datagram that goes nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _peer(self, address: Any) -> UdpPeer | None:
        """The session of a new peer, if it may have one."""
        if self.connect_host is not None and plain(address[0]) != self.connect_host:
            return self.drop("filtered")
        if self.connect_port is not None and address[1] != self.connect_port:
            return self.drop("filtered")
        if len(self.peers) >= self.max_sessions and not self._evict():
            return self.drop("full")
        peer = UdpPeer(self, address)
        self.peers[address] = peer
        session = Session(self, peer)
        self.live.add(session)
        session.begin(self.table.decide(session.metadata))
        return None if peer.closed else peer

    def _evict(self) -> bool:
        """Make room: the oldest session that was never answered goes."""
        for peer in self.peers.values():  # in the order they came
            if not peer.messages_out and peer.session is not None:
                self.drop("evicted")
                peer.session.kill("made room for a new peer: it was never answered")
                return True
        return False

    def tick(self, now: float) -> None:
        super().tick(now)
        for peer in list(self.peers.values()):
            count = peer.messages_in + peer.messages_out
            if count != peer.seen:
                peer.seen = count
                peer.active_at = now
            elif now - peer.active_at > (self.idle_timeout if peer.messages_out else self.answer_timeout) and not self.singleton:
                peer.finish()

    # ------------------------------------------------------------------ sessions

    def session_name(self, session: Session) -> str:
        peer = session.source
        assert isinstance(peer, UdpPeer)
        return f"UDP:{plain(peer.address[0])}:{peer.address[1]}-{self.host}:{self.spec['port']}-{session.number}"

    def metadata(self, session: Session) -> dict[str, Any]:
        peer = session.source
        assert isinstance(peer, UdpPeer)
        return {
            "IP": {"src_addr": plain(peer.address[0]), "dst_addr": self.host},
            "UDP": {"src_port": peer.address[1], "dst_port": self.spec["port"]},
        }


class UdpPeer(Socket):
    """One peer of the listener: the source of its session. It has no descriptor of its own."""

    __slots__ = ("active_at", "address", "closed", "listener", "seen", "sendto")

    def __init__(self, listener: UdpListener, address: Any) -> None:
        super().__init__()
        assert listener.sock is not None
        self.listener = listener
        self.address = address
        self.sendto = listener.sock.sendto
        self.active_at = time.monotonic()
        self.seen = 0
        self.closed = False

    def head(self, head: Any, last: bool = False) -> None:
        """Datagrams have no heads."""

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed:
            return
        try:
            self.sendto(data, self.address)
        except (BlockingIOError, InterruptedError):
            self.listener.drop("send-buffer-full")
            return
        except OSError as exc:
            self.listener.drop("too-long" if exc.errno == 90 else "send-failed")
            return
        self.messages_out += 1
        self.bytes_out += len(data)

    def end(self, trailer: Any = None) -> None:
        """The destination has ended: so does this peer's session; its next datagram makes a new one."""
        self.finish()

    def reset(self, error: Error) -> None:
        self.finish(error)

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.finish(error)

    def pause(self) -> None:
        """Datagrams cannot wait; what the next hop cannot take it drops and counts."""

    def resume(self) -> None: ...

    def status(self) -> str:
        return "END" if self.closed else "READY"

    def finish(self, error: Error | None = None) -> None:
        """Forget the peer. Idempotent."""
        if self.closed:
            return
        self.closed = True
        listener = self.listener
        listener.peers.pop(self.address, None)
        to, self.to = self.to, NOWHERE
        session = self.session
        if session is not None:
            session.source_done = True
            session.close(error)
        if error is not None:
            to.reset(error)
        else:
            to.end()
        if listener.max_sessions == 0 and not listener.peers:
            listener._release()


__all__ = ["UdpListener", "UdpPeer", "from_os"]
