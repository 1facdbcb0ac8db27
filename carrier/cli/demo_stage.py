"""The stage of the demo: Carrier2 with its REST API, the workload and the laptops, on free ports of the loopback interface."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from carrier.cli.demo_asking import REQUESTS
from carrier.cli.demo_peers import HOST, GrpcConnection, TcpEcho, UdpEcho, Workload
from carrier.config.document import from_document
from carrier.core.reuse import recorded
from carrier.errors import Error
from carrier.log import open_log
from carrier.process.serve import Server, Settings, start
from carrier.rules.notation import compile_match

if TYPE_CHECKING:
    from carrier.core.session import Session


class Stage:
    """The workload, the laptops and the proxy, on free ports."""

    server: Server

    def __init__(self) -> None:
        self.shadow = Workload("shadow")
        self.john = Workload("john's laptop")
        self.jane = Workload("jane's laptop")
        self.shadow_grpc = Workload("shadow", GrpcConnection)
        self.john_grpc = Workload("john's laptop", GrpcConnection)
        self.workloads = (self.shadow, self.john, self.jane, self.shadow_grpc, self.john_grpc)
        self.echoes: list[Any] = []
        self.deciders: asyncio.Queue[Session] = asyncio.Queue(REQUESTS)
        """Sessions of the web listener that have ended, to tell which rule decided."""

    async def set_up(self) -> None:
        """Start everything. Raises Error when the proxy does not start."""
        loop = asyncio.get_running_loop()
        for workload in self.workloads:
            await workload.up()
        tcp = await loop.create_server(TcpEcho, HOST, 0)
        udp, _ = await loop.create_datagram_endpoint(UdpEcho, (HOST, 0))
        self.echoes = [tcp, udp]
        for attempt in range(5):
            self.web, self.tcp, self.udp, self.grpc, self.api = free_ports(5)
            config = self._config(tcp.sockets[0].getsockname()[1], udp.get_extra_info("sockname")[1])
            try:
                self.server = await start(from_document(config)[0], open_log("error"), Settings((HOST, self.api)))
            except Error:
                if attempt == 4:
                    raise
                continue  # somebody took one of the ports meanwhile
            if self.server.proxy.admin is not None:
                break
            await self.server.close()
        self.server.env.read(self._note)

    def _config(self, tcp_echo: int, udp_echo: int) -> dict[str, Any]:
        """What a file would say: three ports, everything to the shadow."""

        def cluster(name: str, protocol: str, port: int) -> dict[str, Any]:
            return {"name": name, "spec": {"protocol": protocol, "port": port}, "endpoints": [{"spec": {"address": HOST}}]}

        def listener(name: str, protocol: str, port: int, to: str) -> dict[str, Any]:
            rule = {"name": f"everybody-{name}", "action": {"route": {"destination": to}}}
            return {"name": name, "spec": {"protocol": protocol, "port": port, "address": HOST}, "rules": [rule]}

        return {
            "clusters": [
                cluster("shadow", "HTTP", self.shadow.port),
                cluster("shadow-tcp", "TCP", tcp_echo),
                cluster("shadow-udp", "UDP", udp_echo),
            ],
            "listeners": [
                listener("web", "HTTP", self.web, "shadow"),
                listener("tcp", "TCP", self.tcp, "shadow-tcp"),
                listener("udp", "UDP", self.udp, "shadow-udp"),
            ],
        }

    def _note(self, ended: Sequence[Any]) -> None:
        for entry in ended:
            session = recorded(entry) if isinstance(entry, tuple) else entry
            if session.listener.name == "web" and not self.deciders.full():
                self.deciders.put_nowait(session)

    async def decider(self) -> str:
        """The rule of the web session that ended next, in words."""
        self.server.metrics.settle()
        session = await self.deciders.get()
        return self.words(session.decision.rule)

    def forget(self) -> None:
        """The web sessions that have ended so far are nobody's concern."""
        self.server.metrics.settle()
        while not self.deciders.empty():
            self.deciders.get_nowait()

    def live(self, listener: str) -> str:
        """The rule of the newest live session of a listener, in words."""
        sessions = self.server.proxy.listeners[listener].live
        newest = max(sessions, key=lambda session: session.number, default=None)
        return self.words(newest.decision.rule) if newest is not None else "no session"

    def words(self, rule: str) -> str:
        """A rule and its conditions."""
        found = self.server.proxy.config.rules.get(rule)
        return f"{rule}: {compile_match(found.match).text}" if found is not None else rule

    async def tear_down(self) -> None:
        """End everything, what never started included."""
        if hasattr(self, "server"):
            await self.server.close()
        for echo in self.echoes:
            echo.close()
        for workload in self.workloads:
            await workload.down()


def free_ports(number: int) -> list[int]:
    """TCP ports of the loopback interface that nobody has, UDP's included."""
    taken: list[socket.socket] = []
    try:
        ports: list[int] = []
        while len(ports) < number:
            stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
            taken += [stream, datagram]
            stream.bind((HOST, 0))
            try:
                datagram.bind(stream.getsockname())
            except OSError:
                continue
            ports.append(stream.getsockname()[1])
        return ports
    finally:
        for sock in taken:
            sock.close()
