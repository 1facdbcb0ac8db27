"""UNIX socket cluster: the endpoint's address is the name of a socket file, or "@name"; `mode` as the listener's.

Connecting to a UNIX socket takes no time, so a destination is there at once, or refused; but when the server's queue of connections is
full, there is nothing to do but to try again. A dgram socket binds an address that the kernel makes up (unix(7), autobind), so that it
can be answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem, from_os
from carrier.hops import introduce
from carrier.hops.bytesocket import ByteSocket
from carrier.hops.packetsocket import PacketSocket
from carrier.hops.unixsocket import MODES, address_of, check_mode, leads_to, mode_of

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.health import Health
    from carrier.core.session import Session
    from carrier.core.spec import Kind
    from carrier.core.stream import Socket


SOON, LATER = 0.002, 0.1
"""Seconds between two tries to get into a full queue, at first and at most."""


class UnixCluster(Cluster):
    """`spec: {protocol: UnixDomainSocket, mode}`."""

    protocol = "UnixDomainSocket"
    privileged = {"protocol": "reaches programs of this machine"}
    fields = {"mode": "stream (default), dgram, seqpacket", "proxy_protocol": introduce.FIELD}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.mode = mode_of(conf.spec)
        self.introduces = str(conf.spec.get("proxy_protocol") or "")
        super().__init__(conf, env)

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_mode(spec, path) + introduce.check_version(spec, path)
        if "proxy_protocol" in spec and not found and mode_of(spec) != "stream":
            found.append(Problem("only a stream begins with a PROXY header", f"{path}.proxy_protocol", seen=f"mode {mode_of(spec)}"))
        return found

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        return super().kind_of(spec) if mode_of(spec) == "stream" else "datagram"

    def ready(self, session: Session, endpoint: Endpoint | None) -> Socket | None:
        assert endpoint is not None
        sock = self._connected(endpoint.host, session)
        return None if sock is None else self._end(session, sock, endpoint.host)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        """The queue is full: the kernel does not say when it is so no more."""
        delay = SOON
        while (sock := self._connected(endpoint.host, session)) is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, LATER)
        return self._end(session, sock, endpoint.host)

    def _end(self, session: Session, sock: socket.socket, filename: str) -> Socket:
        loop = self.env.loop
        if self.introduces:
            try:
                sock.send(introduce.introduction(session, self.introduces))  # the first bytes of a connection find room
            except OSError as exc:
                sock.close()
                raise from_os(exc, "upstream", filename, "yes") from None
        upstream: ByteSocket | PacketSocket
        if self.mode == "stream":
            upstream = ByteSocket(loop, sock, "upstream")
        else:
            connection = self.mode == "seqpacket"
            upstream = PacketSocket(loop, sock, "upstream", ends=connection, half=connection)
        upstream.session = session
        return upstream

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        sock = self._connected(endpoint.host)
        if sock is not None:  # a full queue is somebody's
            sock.close()

    def _connected(self, filename: str, session: Session | None = None) -> socket.socket | None:
        """A connected socket; None: the server's queue is full. Raises Error (retry "yes": nothing was sent)."""
        here = self.env.own.files and self.env.own.at(self.transport, filename, None)
        if here and self.outward:
            raise Error("loop", f"{filename} is a listener of this proxy, and the session would go round", "upstream", "yes")
        sock = socket.socket(socket.AF_UNIX, MODES[self.mode] | socket.SOCK_NONBLOCK)
        try:
            if self.mode == "dgram" or here:  # a name, by which it is answered, and known to a listener of ours
                sock.bind("")
                if here and session is not None:
                    self.env.ways.goes(session, self.transport, sock)
            sock.connect(address_of(filename))
            if self.env.api_files and leads_to(sock, self.env.api_files):
                raise Error("forbidden", f"{filename} is where the REST API of this proxy listens", "upstream", "yes")
        except Error:
            sock.close()
            raise
        except BlockingIOError:
            sock.close()
            return None
        except OSError as exc:
            sock.close()
            raise from_os(exc, "upstream", filename, "yes") from None
        except ValueError as exc:
            sock.close()
            raise Error("no-endpoint", str(exc), "upstream", "yes") from None
        return sock
