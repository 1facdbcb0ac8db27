"""The hot path of the HTTP listener: what one keep-alive request may cost, asked of fake transports and of the kernel."""

from __future__ import annotations

import gc
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from carrier import model as c
from carrier.core.env import Env
from carrier.observe.meter import Meter
from carrier.rules.table import Matchers, Table
from clusters.http.cluster import HttpCluster
from clusters.http.h1 import Upstream1
from listeners.http.h1 import Connection1
from listeners.http.listener import HttpListener

ROOT = Path(__file__).resolve().parents[3]
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Wire:
    """A transport that counts what is asked of it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name.endswith("name") else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)


class Loop:
    """An event loop that refuses tasks, futures and timers."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a request needs no {name}")


class Pair:
    """A downstream and an idle upstream connection, on fake transports."""

    def __init__(self, rules: int = 0) -> None:
        env = Env(Loop())  # type: ignore[arg-type]
        conf = c.Cluster("up", {"protocol": "HTTP", "port": 1}, (c.EndPoint("e", {"address": "127.0.0.1"}),))
        self.cluster = HttpCluster(conf, env)
        names = {f"r{i}": c.Rule(f"r{i}", {"matchHeader": {"name": "x-user", "value": str(i)}}, c.Action(route="up")) for i in range(rules)}
        all_rules = {**names, "all": c.Rule("all", None, c.Action(route="up"))}
        config = c.Config(
            clusters={"up": conf}, rules=all_rules, rulelists={"rl": c.RuleList("rl", tuple(all_rules))}, routes={"up": c.Route("up", "up")}
        )
        self.listener = HttpListener(c.Listener("front", {"protocol": "HTTP", "port": 1}, "rl"), env)
        self.listener.use(Table(config, "rl", {"up": self.cluster}, Matchers(), {}))
        endpoint = self.cluster.endpoints[0]
        self.upstream, self.up = Upstream1(self.cluster.shared, endpoint, self.cluster.pool(endpoint)), Wire()
        self.upstream.connection_made(self.up)  # type: ignore[arg-type]
        endpoint.idle.append(self.upstream)
        self.downstream, self.down = Connection1(self.listener), Wire()
        self.downstream.connection_made(self.down)  # type: ignore[arg-type]

    def exchange(self, request: bytes = GET, answer: bytes = OK) -> None:
        self.downstream.data_received(request)
        self.upstream.data_received(answer)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, OK),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello", OK),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", OK),
        (b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        (GET, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
def test_a_request_is_one_write_each_way_and_no_task_future_or_timer(request_: bytes, answer: bytes) -> None:
    pair = Pair()
    for n in range(1, 12):
        pair.exchange(request_, answer)
        assert (len(pair.up.writes), len(pair.down.writes)) == (n, n)
    assert not [name for name in pair.up.calls + pair.down.calls if name not in ("pause_reading", "resume_reading", "set_protocol")]
    assert not pair.listener.live and pair.upstream in pair.cluster.endpoints[0].idle


CLOSING = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "behind"), [(CLOSING, b""), (CLOSING, GET), (CLOSING.replace(b"close", b"Keep-Alive, Close"), b"junk \x00")]
)
@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 204 No Content\r\n\r\n", OK.replace(b"200", b"404")])
def test_a_known_head_behind_which_the_connection_ends_needs_no_codec_and_its_answer_is_the_last(
    request_: bytes, behind: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair()
    pair.exchange(request_, answer)
    first = pair.down
    assert first.writes == [answer.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")] and first.calls == ["close"]
    monkeypatch.setattr("carrier.wire.h1.reader.RequestReader._run", lambda *_: pytest.fail("the codec was asked"))
    pair.downstream, pair.down = Connection1(pair.listener), Wire()
    pair.downstream.connection_made(pair.down)  # type: ignore[arg-type]
    pair.downstream.data_received(request_)
    monkeypatch.undo()
    if behind:
        pair.downstream.data_received(behind)
    pair.upstream.data_received(answer)
    assert pair.down.writes == first.writes and pair.down.calls[-1:] == ["close"]
    assert len(pair.up.writes) == 2 and pair.upstream in pair.cluster.endpoints[0].idle


def test_a_head_that_the_codec_reads_and_behind_which_the_connection_ends_ends_it_where_the_answer_is_known() -> None:
    pair = Pair()
    for _ in range(2):
        pair.exchange(GET, OK)
    pair.downstream, pair.down = Connection1(pair.listener), Wire()
    pair.downstream.connection_made(pair.down)  # type: ignore[arg-type]
    pair.exchange(CLOSING, OK)
    assert pair.down.writes == [OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")] and pair.down.calls == ["close"]


def test_an_answer_of_no_known_length_ends_with_the_connection_that_asked_for_that() -> None:
    pair = Pair()
    for _ in range(2):
        pair.downstream, pair.down = Connection1(pair.listener), Wire()
        pair.downstream.connection_made(pair.down)  # type: ignore[arg-type]
        pair.exchange(CLOSING, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        assert b"connection: close" in b"".join(pair.down.writes) and pair.down.calls[-1:] == ["close"]


def test_a_request_leaves_no_garbage_for_the_collector() -> None:
    pair = Pair()
    for _ in range(20):
        pair.exchange()
    while gc.collect():  # also what ends with others, of the tests before
        pass
    gc.disable()
    try:
        for _ in range(50):
            pair.exchange()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_session_begun_again_has_all_that_one_begun_in_steps_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun() -> dict[str, Any]:
        pair = Pair()
        pair.downstream.data_received(GET)
        session = pair.downstream.session
        assert session is not None and list(pair.listener.live) == [session] and session.connected_at == session.started
        known = {id(part): name for name, part in vars(pair).items()} | {id(session): "session", id(pair.listener): "listener"}
        found = {name: getattr(session, name, "not set") for kind in type(session).__mro__[:-1] for name in kind.__slots__}  # type: ignore[attr-defined]
        del found["__weakref__"], found["started"], found["connected_at"], found["fields"]
        pair.upstream.data_received(OK)
        return {
            name: known.get(id(value), value if isinstance(value, (int, str, type(None))) else type(value)) for name, value in found.items()
        }

    again = begun()
    monkeypatch.setattr("carrier.core.reuse.ReusedSession.begin_again", lambda *_: False)
    assert begun() == again
    assert (again["status"], again["to"], again["back"], again["on_lane"]) == ("CONNECTED", "downstream", "upstream", True)


@pytest.mark.parametrize("looked_at", [False, True])
def test_counters_are_kept(looked_at: bool) -> None:
    pair = Pair()
    meter = Meter()
    ledger = pair.listener.env.read(meter.read)
    ledger.timer = cast(Any, "no loop")
    for _ in range(5):
        pair.downstream.data_received(GET)
        (session,) = pair.listener.live
        if looked_at:
            assert session.dump()["counters"]["messages_in"] == 1
        pair.upstream.data_received(OK)
    endpoint = pair.cluster.endpoints[0]
    assert (endpoint.active, endpoint.total, pair.cluster.sessions_total, pair.listener.counter) == (0, 5, 5, 5)
    ledger.settle()
    (series,) = meter.known.values()
    series.flow.settle()
    assert (series.codes[2], sum(series.flow.counts), series.flow.received) == (5, 5, 5 * len(GET))
    assert series.flow.sent == sum(map(len, pair.down.writes)) and series.flow.sum > 0


def test_a_session_that_somebody_has_looked_at_is_not_used_again() -> None:
    pair = Pair()
    pair.exchange()
    names, sessions = [], []
    for looked_at in (False, False, True, False):
        pair.downstream.data_received(GET)
        (session,) = pair.listener.live
        sessions.append(session)
        if looked_at:
            names.append(session.name)
        pair.upstream.data_received(OK)
    assert sessions[0] is sessions[1] is sessions[2] and sessions[3] is not sessions[2]
    assert sessions[2].name == names[0] and sessions[2].status == "DESTROYED" and not pair.listener.live


def test_heads_that_always_differ_are_served_and_not_kept() -> None:
    pair = Pair()
    for i in range(200):
        pair.exchange(
            b"GET / HTTP/1.1\r\nhost: a\r\ntraceparent: %032x\r\n\r\n" % i,
            b"HTTP/1.1 200 OK\r\ndate: %d\r\ncontent-length: 2\r\n\r\nok" % i,
        )
        assert b"traceparent: %032x\r\n" % i in pair.up.writes[-1] and b"date: %d\r\n" % i in pair.down.writes[-1]
    assert len(pair.listener.routing.memo.heads) < 20 and len(pair.cluster.shared.memo.heads) < 20


# ------------------------------------------------------------------ the kernel's view

CALLS = "trace=read,write,recvfrom,sendto,recvmsg,sendmsg,readv,writev"
PROXY = """
import asyncio, sys, uvloop
from carrier import model as c
from carrier.core.env import Env
from carrier.proxy.proxy import Proxy

async def main():
    proxy = Proxy(Env(asyncio.get_running_loop()), None)
    up = c.Cluster("up", {"protocol": "HTTP", "port": int(sys.argv[1])}, (c.EndPoint("e", {"address": "127.0.0.1"}),))
    await proxy.apply(c.Config(
        listeners={"front": c.Listener("front", {"protocol": "HTTP", "port": 0, "address": "127.0.0.1"}, "rl")},
        clusters={"up": up}, rulelists={"rl": c.RuleList("rl", ("all",))},
        rules={"all": c.Rule("all", None, c.Action(route="up"))}, routes={"up": c.Route("up", "up")}))
    print(proxy.listeners["front"].port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

uvloop.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_keep_alive_request_is_two_reads_and_two_writes(tmp_path: Path) -> None:
    requests, log = 200, tmp_path / "calls"
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        command = [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=read,write,recvfrom,sendto,recvmsg,sendmsg,readv,writev",
            "-e",
            "signal=none",
            "-o",
            str(log),
        ]
        proxy = subprocess.Popen(
            [*command, sys.executable, "-c", PROXY, str(port)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert proxy.stdout is not None and proxy.stdin is not None
            line = proxy.stdout.readline()
            if not line.strip():
                said = proxy.communicate(timeout=10)[1]
                assert "ptrace" in said, said  # else it is not strace that failed
                pytest.skip(f"strace may not trace here: {said[:200]}")
            with socket.create_connection(("127.0.0.1", int(line)), timeout=10) as client:
                client.sendall(GET)
                server, _ = backend.accept()
                server.settimeout(10)
                for n in range(requests):
                    while not server.recv(65536).endswith(b"\r\n\r\n"):
                        pass
                    server.sendall(OK)
                    assert client.recv(65536).endswith(b"ok")
                    if n == 9:
                        start = log.stat().st_size
                    if n < requests - 1:
                        client.sendall(GET)
                end = log.stat().st_size
                server.close()
        finally:
            proxy.communicate(timeout=20)  # the end of its input is its end
    with open(log, "rb") as file:
        file.seek(start)
        calls = file.read(end - start).decode().splitlines()
    whole = [call for call in calls if "(" in call and " = " in call]  # the first and the last may be cut
    reads, writes = (sum(f" {name}(" in call for call in whole) for name in ("read", "write"))
    others = [call for call in whole if not (" read(" in call or " write(" in call)]
    done = requests - 10
    assert not others and abs(reads - 2 * done) <= 2 and abs(writes - 2 * done) <= 2, (reads, writes, done, others[:3])
