"""`carrier demo`: the main job, seen in a minute, in one process, on real sockets.

A shadow workload (HTTP, and echoes of TCP and UDP), the laptops of john and jane, Carrier2 in front of them with its REST API, all on free
ports of the loopback interface. `Story` plays what happens in a shared cluster, one claim a line with the rule that decided, and
checks each claim against what came over the wire; bridges are made with the calls that a user would make. Then light traffic goes
on until a signal comes; with `--once` the process ends instead, 0 when every claim held, 1 otherwise.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import socket
import sys
import textwrap
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

import h11
import msgspec
import uvloop
import wsproto
from wsproto import events as ws

from carrier.config.document import from_document
from carrier.core.reuse import recorded
from carrier.errors import Error
from carrier.log import open_log
from carrier.process.serve import Server, Settings, Signals, start
from carrier.rules.notation import compile_match

if TYPE_CHECKING:
    from carrier.core.session import Session

HOST = "127.0.0.1"
REQUESTS = 2000
CONNECTIONS = 8
PATIENCE = 15.0
"""Seconds that one claim may take."""
MARK = "x-carrier-fallback"


def main(once: bool = False, out: TextIO | None = None) -> int:
    """Play the demo; returns its exit status. out: where the story goes (standard output)."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(once, Page(out or sys.stdout)))


async def _main(once: bool, page: Page) -> int:
    signals = Signals()
    stage = Stage()
    try:
        await stage.set_up()
        page.cast(stage)
        story = Story(stage, page)
        telling = asyncio.ensure_future(story.tell())
        signal = asyncio.ensure_future(signals.next())
        await asyncio.wait([telling, signal], return_when=asyncio.FIRST_COMPLETED)
        if signal.done():
            telling.cancel()
            return 1 if once else 0
        await telling
        page.end(story)
        if not once:
            page.invite(stage)
            traffic = asyncio.ensure_future(_light_traffic(stage, page))
            await signal
            traffic.cancel()
        signal.cancel()
        return 0 if all(story.held) else 1
    finally:
        signals.close()
        await stage.tear_down()


async def _light_traffic(stage: Stage, page: Page) -> None:
    """Two requests a second, so that there is something to see in the API."""
    answered: Counter[str] = Counter()
    for user in _in_turn("nobody", "john", "jane"):
        try:
            reply = await ask(stage.web, "GET", "/cart/7", {"x-user": user})
            answered[reply.who] += 1
        except (OSError, h11.ProtocolError):
            answered["nobody: failed"] += 1
        page.tally(answered)
        await asyncio.sleep(0.5)


def _in_turn(*users: str) -> Any:
    return (users[i % len(users)] for i in count())


# -- who plays ----------------------------------------------------------------------------------------------------------------------------


class Stage:
    """The workload, the laptops and the proxy, on free ports."""

    server: Server

    def __init__(self) -> None:
        self.shadow = Workload("shadow")
        self.john = Workload("john's laptop")
        self.jane = Workload("jane's laptop")
        self.echoes: list[Any] = []
        self.deciders: asyncio.Queue[Session] = asyncio.Queue(REQUESTS)
        """Sessions of the web listener that have ended, to tell which rule decided."""

    async def set_up(self) -> None:
        """Start everything. Raises Error when the proxy does not start."""
        loop = asyncio.get_running_loop()
        for workload in (self.shadow, self.john, self.jane):
            await workload.up()
        tcp = await loop.create_server(TcpEcho, HOST, 0)
        udp, _ = await loop.create_datagram_endpoint(UdpEcho, (HOST, 0))
        self.echoes = [tcp, udp]
        for attempt in range(5):
            self.web, self.tcp, self.udp, self.api = free_ports(4)
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
        for workload in (self.shadow, self.john, self.jane):
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


class Workload:
    """An HTTP server that says who it is, and echoes WebSocket messages. It can go down, and come up again on its port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.server: asyncio.Server | None = None
        self.connections: set[asyncio.Transport] = set()

    async def up(self) -> None:
        """Listen."""
        self.server = await asyncio.get_running_loop().create_server(lambda: WorkloadConnection(self), HOST, self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and close every connection, as a laptop that falls asleep."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for transport in list(self.connections):
            transport.abort()


class WorkloadConnection(asyncio.Protocol):
    """One connection of a workload: HTTP/1.1 by h11, and WebSocket by wsproto after an Upgrade."""

    transport: asyncio.Transport

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.http = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None
        self.websocket: wsproto.WSConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.workload.connections.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.workload.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        try:
            if self.websocket is not None:
                self._frames(data)
                return
            self.http.receive_data(data)
            while (event := self.http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    self.request = event
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
        except h11.RemoteProtocolError:
            self.transport.close()

    def _answer(self) -> None:
        assert self.request is not None
        headers = dict(self.request.headers)
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            self._upgrade()
            return
        body = f"{self.workload.name}: {self.request.method.decode()} {self.request.target.decode()}\n".encode()
        fields = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        head = self.http.send(h11.Response(status_code=200, headers=fields, reason=b"OK")) or b""
        content = self.http.send(h11.Data(data=b"" if self.request.method == b"HEAD" else body)) or b""
        self.http.send(h11.EndOfMessage())
        self.transport.write(head + content)
        if self.http.our_state is h11.MUST_CLOSE:
            self.transport.close()
        else:
            self.http.start_next_cycle()

    def _upgrade(self) -> None:
        """101 (RFC 6455 section 4.2.2); from now on frames."""
        assert self.request is not None
        self.websocket = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self.websocket.initiate_upgrade_connection(list(self.request.headers), self.request.target.decode())
        self.transport.write(self.websocket.send(ws.AcceptConnection()))
        early, _ = self.http.trailing_data
        if early:
            self._frames(early)

    def _frames(self, data: bytes) -> None:
        assert self.websocket is not None
        self.websocket.receive_data(data)
        for event in self.websocket.events():
            if isinstance(event, ws.TextMessage):
                self.transport.write(self.websocket.send(ws.TextMessage(f"{self.workload.name}: {event.data}")))
            elif isinstance(event, ws.CloseConnection):
                self.transport.write(self.websocket.send(event.response()))
                self.transport.close()


class TcpEcho(asyncio.Protocol):
    """Sends back what it gets; an end is answered with an end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


# -- how to ask ---------------------------------------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """An answer. headers: lower-case names."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def who(self) -> str:
        """Which workload it came from."""
        return self.body.partition(":")[0]


class Client:
    """A keep-alive HTTP/1.1 connection to a port of the loopback interface. `async with Client(port) as client`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        """Send a request and read its answer. Raises OSError or h11.ProtocolError when there is none."""
        fields = {"host": f"{HOST}:{self.port}", **(headers or {}), "content-length": str(len(body))}
        if not body:
            del fields["content-length"]
        parts = (h11.Request(method=method, target=target, headers=list(fields.items())), h11.Data(data=body), h11.EndOfMessage())
        self.writer.write(b"".join(self.http.send(part) or b"" for part in parts))
        head: h11.Response | None = None
        found: list[bytes] = []
        while not isinstance(event := self.http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                found.append(bytes(event.data))
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the connection was closed without an answer")
        assert head is not None
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        decoded = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Reply(head.status_code, decoded, b"".join(found).decode("utf-8", "replace"))


async def ask(port: int, method: str, target: str, headers: dict[str, str] | None = None, body: Any = None) -> Reply:
    """One request on a connection of its own; body: sent as JSON."""
    headers = dict(headers or {})
    if body is not None:
        headers["content-type"] = "application/json"
    async with Client(port) as client:
        return await client.ask(method, target, headers, msgspec.json.encode(body) if body is not None else b"")


async def talk(port: int, headers: dict[str, str], text: str, look: Callable[[], str]) -> tuple[int, str, str]:
    """A WebSocket conversation (RFC 6455): status of the handshake, the answer to `text`, and what `look()` says meanwhile."""
    reader, writer = await asyncio.open_connection(HOST, port)
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        writer.write(client.send(ws.Request(host=f"{HOST}:{port}", target="/live", extra_headers=extra)))
        seen = ""
        while True:
            data = await reader.read(65536)
            client.receive_data(data or None)
            for event in client.events():
                if isinstance(event, ws.AcceptConnection):
                    writer.write(client.send(ws.TextMessage(text)))
                elif isinstance(event, ws.RejectConnection):
                    return event.status_code, "", seen
                elif isinstance(event, ws.TextMessage):
                    seen = look()
                    writer.write(client.send(ws.CloseConnection(1000, "bye")))
                    return 101, event.data, seen
            if not data:
                return 0, "", seen
    finally:
        writer.close()


class Run:
    """REQUESTS requests over CONNECTIONS keep-alive connections. answered: who answered how many."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self.port = port
        self.headers = headers
        self.answered: Counter[str] = Counter()
        self.left = iter(range(REQUESTS))
        self.over = False
        self.turn = asyncio.Event()

    async def all(self) -> None:
        """Send them all."""
        try:
            await asyncio.gather(*(self._one_connection() for _ in range(CONNECTIONS)))
        finally:
            self.over = True
            self.turn.set()

    async def _one_connection(self) -> None:
        async with Client(self.port) as client:
            for number in self.left:
                reply = await client.ask("GET", "/", self.headers)
                self.answered[reply.who if reply.status == 200 else f"status {reply.status}"] += 1
                if number % 50 == 0:
                    self.turn.set()

    async def some(self) -> None:
        """Wait until some more were answered, or all."""
        if not self.over:
            self.turn.clear()
            await self.turn.wait()


class Datagrams(asyncio.DatagramProtocol):
    """Keeps what comes in, in a queue."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.came.put_nowait(data)


# -- the story ----------------------------------------------------------------------------------------------------------------------------

JANES = [{"matchPath": {"path": "/cart", "type": "prefix"}}, {"matchHeader": {"name": "x-user", "value": "jane"}}]


class Claim(NamedTuple):
    """What was done, what came of it, why, and whether it is what we promise. more: what else there is to say."""

    what: str
    outcome: str
    why: str
    held: bool
    more: str = ""


class Story:
    """The claims, in order. `held` has one truth for each that was told."""

    def __init__(self, stage: Stage, page: Page) -> None:
        self.stage = stage
        self.page = page
        self.held: list[bool] = []

    async def tell(self) -> None:
        """Play all of it; a claim that breaks down has not held."""
        chapters: list[Callable[[], Awaitable[Claim]]] = [
            self.nobody_has_a_bridge,
            self.john_makes_one,
            self.john_gets_his,
            self.jane_makes_one,
            self.jane_gets_hers,
            self.jane_elsewhere,
            self.everybody_else,
            self.eve_wants_janes,
            self.janes_laptop_sleeps,
            self.it_wakes_up,
            self.a_bridge_comes_and_goes,
            self.tcp,
            self.udp,
            self.websocket,
        ]
        for chapter in chapters:
            try:
                async with asyncio.timeout(PATIENCE):
                    claim = await chapter()
            except Exception as exc:  # whatever it was, it is not what we promise
                claim = Claim(chapter.__name__.replace("_", " "), "failed", f"{type(exc).__name__}: {exc}", False)
            self.held.append(claim.held)
            self.page.claim(len(self.held), claim)

    async def _get(self, what: str, path: str, headers: dict[str, str], who: str, rule: str, mark: str | None = None) -> Claim:
        """A GET through the proxy that should be answered by `who`, decided by `rule`, marked as fallback by `mark`."""
        reply = await ask(self.stage.web, "GET", path, headers)
        why = await self.stage.decider()
        marked = reply.headers.get(MARK)
        held = (reply.status, reply.who, marked) == (200, who, mark) and why.startswith(f"{rule}:")
        outcome = (reply.who if reply.status == 200 else f"status {reply.status}") + (f", {MARK}: {marked}" if marked else "")
        return Claim(what, outcome, why, held)

    async def _put(self, name: str, user: str, match: Any, endpoint: Workload) -> Reply:
        body = {"port": self.stage.web, "user": user, "match": match, "endpoint": f"{HOST}:{endpoint.port}"}
        return await ask(self.stage.api, "PUT", f"/api/v1/bridges/{name}", body=body)

    async def nobody_has_a_bridge(self) -> Claim:
        return await self._get("GET /", "/", {}, "shadow", "everybody-web")

    async def john_makes_one(self) -> Claim:
        reply = await self._put("john", "john", {"matchHeader": {"name": "x-user", "value": "john"}}, self.stage.john)
        return Claim("john: PUT /bridges/john", f"{reply.status}", self.stage.words("bridge/john"), reply.status == 201)

    async def john_gets_his(self) -> Claim:
        return await self._get("GET /  x-user: john", "/", {"x-user": "john"}, "john's laptop", "bridge/john")

    async def jane_makes_one(self) -> Claim:
        reply = await self._put("jane", "jane", JANES, self.stage.jane)
        return Claim("jane: PUT /bridges/jane", f"{reply.status}", self.stage.words("bridge/jane"), reply.status == 201)

    async def jane_gets_hers(self) -> Claim:
        return await self._get("GET /cart/7  x-user: jane", "/cart/7", {"x-user": "jane"}, "jane's laptop", "bridge/jane")

    async def jane_elsewhere(self) -> Claim:
        return await self._get("GET /  x-user: jane", "/", {"x-user": "jane"}, "shadow", "everybody-web")

    async def everybody_else(self) -> Claim:
        return await self._get("GET /cart/7", "/cart/7", {}, "shadow", "everybody-web")

    async def eve_wants_janes(self) -> Claim:
        reply = await self._put("eve", "eve", list(reversed(JANES)), self.stage.john)
        reason = str(msgspec.json.decode(reply.body).get("content"))
        held = reply.status == 409 and "'jane'" in reason and "eve" not in self.stage.server.proxy.config.bridges
        return Claim("eve: PUT /bridges/eve, with jane's rule", f"{reply.status}, refused", "nothing has changed", held, reason)

    async def janes_laptop_sleeps(self) -> Claim:
        await self.stage.jane.down()
        what = "jane's laptop is down: her GET /cart/7"
        return await self._get(what, "/cart/7", {"x-user": "jane"}, "shadow", "bridge/jane", "refused")

    async def it_wakes_up(self) -> Claim:
        await self.stage.jane.up()
        what = "jane's laptop is back: her GET /cart/7"
        return await self._get(what, "/cart/7", {"x-user": "jane"}, "jane's laptop", "bridge/jane")

    async def a_bridge_comes_and_goes(self) -> Claim:
        """ida's bridge is made and deleted again and again while her requests run; each must be answered by the one or the other."""
        run = Run(self.stage.web, {"x-user": "ida"})
        body = {"port": self.stage.web, "user": "ida", "match": {"matchHeader": {"name": "x-user", "value": "ida"}}}
        made = msgspec.json.encode({**body, "endpoint": f"{HOST}:{self.stage.john.port}"})
        statuses: list[int] = []
        running = asyncio.ensure_future(run.all())
        async with Client(self.stage.api) as api:
            while not run.over or len(statuses) % 2:
                if len(statuses) % 2:
                    reply = await api.ask("DELETE", "/api/v1/bridges/ida")
                else:
                    reply = await api.ask("PUT", "/api/v1/bridges/ida", {"content-type": "application/json"}, made)
                statuses.append(reply.status)
                await run.some()
        await running
        while not self.stage.deciders.empty():
            self.stage.deciders.get_nowait()
        shadow, laptop = run.answered["shadow"], run.answered["john's laptop"]
        held = shadow + laptop == REQUESTS and min(shadow, laptop) > 0 and set(statuses) == {200, 201}
        why = f"{shadow:,} by the shadow, {laptop:,} by the bridge; {len(statuses)} changes"
        return Claim(f"{REQUESTS:,} requests while ida's bridge comes and goes", f"{REQUESTS - shadow - laptop} lost", why, held)

    async def tcp(self) -> Claim:
        reader, writer = await asyncio.open_connection(HOST, self.stage.tcp)
        writer.write(b"x" * 100_000)
        echoed = len(await reader.readexactly(100_000))
        why = self.stage.live("tcp")
        writer.write_eof()
        ended = await reader.read() == b""
        writer.close()
        return Claim(
            "TCP, 100,000 bytes and an end", "shadow, echoed", why, echoed == 100_000 and ended and why.startswith("everybody-tcp:")
        )

    async def udp(self) -> Claim:
        loop = asyncio.get_running_loop()
        transport, datagrams = await loop.create_datagram_endpoint(Datagrams, remote_addr=(HOST, self.stage.udp))
        try:
            for text in (b"one", b"two", b"three"):
                transport.sendto(text)
            came = sorted([await datagrams.came.get() for _ in range(3)])
            why = self.stage.live("udp")
        finally:
            transport.close()
        return Claim("UDP, three datagrams", "shadow, echoed", why, came == [b"one", b"three", b"two"] and why.startswith("everybody-udp:"))

    async def websocket(self) -> Claim:
        status, answer, why = await talk(self.stage.web, {"x-user": "john"}, "hello", lambda: self.stage.live("web"))
        held = (status, answer) == (101, "john's laptop: hello") and why.startswith("bridge/john:")
        return Claim("john's WebSocket, by Upgrade, says hello", f"{status}, {answer.partition(':')[0] or 'nobody'}", why, held)


# -- how it looks -------------------------------------------------------------------------------------------------------------------------


class Page:
    """Lines for a person: colours on a terminal (unless NO_COLOR is set), plain text elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.terminal = out.isatty()
        self.narrow = self.terminal and shutil.get_terminal_size().columns < 140
        self.colours = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        wide = (getattr(out, "encoding", "") or "").lower().replace("-", "") == "utf8"
        self.marks = ("✓", "✗", "→") if wide else ("ok", "NO", "->")

    def say(self, text: str = "") -> None:
        """One line."""
        print(text, file=self.out, flush=True)

    def paint(self, code: str, text: str) -> str:
        """The text in a colour (SGR parameters), where there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    def cast(self, stage: Stage) -> None:
        """Who is there, and who will get what."""
        self.say(self.paint("1", "Carrier2: two developers bridge one port of a pod; nobody else notices"))
        self.say()
        for what, where in (
            ("Carrier2, HTTP (listener web)", f"http://{HOST}:{stage.web}"),
            ("Carrier2, TCP and UDP", f"{HOST}:{stage.tcp}, {HOST}:{stage.udp}"),
            ("Carrier2, REST API", f"http://{HOST}:{stage.api}/api/v1"),
            ("shadow workload", f"{HOST}:{stage.shadow.port}"),
            ("john's and jane's laptops", f"{HOST}:{stage.john.port}, {HOST}:{stage.jane.port}"),
        ):
            self.say(f"  {what:<32}{self.paint('2', where)}")
        self.say()
        self.say(self.paint("1", f"  {'requests with':<32}{'go to':<18}{'by rule'}"))
        for who, to, rule in (
            ("x-user: john", "john's laptop", "bridge/john"),
            ("/cart... and x-user: jane", "jane's laptop", "bridge/jane"),
            ("anything else", "shadow", "everybody-web"),
        ):
            self.say(f"  {who:<32}{to:<18}{rule}")
        self.say()

    def claim(self, number: int, claim: Claim) -> None:
        """A line of the story."""
        yes, no, arrow = self.marks
        mark = self.paint("32", yes) if claim.held else self.paint("1;31", no)
        colour = "1;31" if not claim.held else "33" if "refused" in claim.outcome else "36" if "laptop" in claim.outcome else "0"
        outcome = self.paint(colour, f"{claim.outcome:<35}")
        rule = self.paint("2", claim.why)
        self.say(f"{number:3d} {mark} {claim.what:<50} {arrow} {outcome}" + ("" if self.narrow else f" {rule}"))
        if self.narrow:
            self.say(f"        {rule}")
        for line in textwrap.wrap(claim.more, 70 if self.narrow else 110):
            self.say(f"        {self.paint('2', line)}")

    def end(self, story: Story) -> None:
        """How many claims held."""
        held = sum(story.held)
        mebibytes = resident() / 1024 / 1024
        text = f"{held} of {len(story.held)} claims held; {mebibytes:.1f} MiB resident, workload and laptops included"
        self.say()
        self.say(self.paint("1;32" if held == len(story.held) else "1;31", text))

    def invite(self, stage: Stage) -> None:
        """What to try."""
        web, api = f"http://{HOST}:{stage.web}", f"http://{HOST}:{stage.api}/api/v1"
        match = '{"matchHeader": {"name": "x-user", "value": "me"}}'
        body = f'{{"port": {stage.web}, "user": "me", "match": {match}, "endpoint": "{HOST}:{stage.jane.port}", "expires": 600}}'
        self.say()
        self.say("Light traffic goes on; Ctrl-C ends it. Try, in another terminal:")
        self.say()
        for line in (
            f"curl {web}/",
            f"curl -H 'x-user: john' {web}/",
            f"curl {api}/bridges",
            f"curl -X PUT -H 'content-type: application/json' {api}/bridges/me \\\n    -d '{body}'",
            f"curl -H 'x-user: me' {web}/",
            f"curl -X DELETE {api}/bridges/me",
            f"curl {api}/config",
            f"{command()} explain GET /cart/7 -H 'x-user: jane' --admin {HOST}:{stage.api}",
            f"{command()} status --admin {HOST}:{stage.api}",
        ):
            self.say("  " + self.paint("36", line))
        self.say()

    def tally(self, answered: Counter[str]) -> None:
        """The light traffic so far, on one line of a terminal."""
        if self.terminal:
            text = ", ".join(f"{who} {number}" for who, number in sorted(answered.items()))
            print(f"\r\x1b[K  answered by: {text}", end="", file=self.out, flush=True)


def command() -> str:
    """How this program was called, for lines that shall work when they are pasted."""
    return sys.argv[0] if os.path.basename(sys.argv[0]) == "carrier" else f"{sys.executable} -m carrier"


def resident() -> int:
    """Bytes of memory that this process has resident."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            found = re.search(r"VmRSS:\s+(\d+) kB", status.read())
            return int(found[1]) * 1024 if found else 0
    except OSError:  # no /proc: the most there ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
