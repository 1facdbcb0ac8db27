"""The whole process, in this one: the doors of the API on real sockets, health, drain and state through the API, reload."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from carrier.admin.gate import Limits
from carrier.config.document import from_document
from carrier.core.lookup import Found, Place
from carrier.errors import ConfigError, Error
from carrier.log import Log
from carrier.model import Admin, Config
from carrier.observe.live import VIEWERS
from carrier.process.serve import Server, Settings, run, start
from carrier.proxy.overload import Bounds
from tests.ports import free_port
from tests.support import cluster, config, echo, http, listener, port_of, tcp, tcp_server, udp, wait_until

TOKEN = "correct-horse-battery"


class Running:
    """A server and words to call it with."""

    def __init__(self, server: Server, lines: list[str]) -> None:
        self.server = server
        self.lines = lines
        self.proxy = server.proxy

    @property
    def admin(self) -> int:
        assert self.proxy.admin is not None
        return int(self.proxy.admin.port)  # type: ignore[attr-defined]

    async def call(
        self, method: str, path: str, body: Any = None, *, port: int = 0, unix: str = "", tls: ssl.SSLContext | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """One call: status, headers, decoded body. Header names with _ for -."""
        if unix:
            reader, writer = await asyncio.open_unix_connection(unix)
        else:
            name = "localhost" if tls else None
            reader, writer = await asyncio.open_connection("127.0.0.1", port or self.admin, ssl=tls, server_hostname=name)
        fields = {"host": "127.0.0.1", "connection": "close"} | {k.replace("_", "-"): v for k, v in headers.items()}
        encoded = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            fields |= {"content-type": fields.get("content-type", "application/json"), "content-length": str(len(encoded))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + encoded)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *more = head.decode().split("\r\n")
        found = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in more)}
        return int(first.split()[1]), found, json.loads(rest) if rest else None

    async def raw(self, *lines: str) -> bytes:
        """What a request with these lines is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        writer.write("\r\n".join([*lines, "host: 127.0.0.1", "connection: close", "", ""]).encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    async def status(self, *args: Any, **more: Any) -> int:
        return (await self.call(*args, **more))[0]


@contextlib.asynccontextmanager
async def serving(conf: Config | None = None, **settings: Any) -> AsyncIterator[Running]:
    lines: list[str] = []
    settings.setdefault("admin", ("127.0.0.1", 0))
    server = await start(conf or Config(), Log("info", lines.append), Settings(**settings))
    server.env.gate.pid = 0  # these tests call from the process of the server, which is nobody
    try:
        yield Running(server, lines)
    finally:
        await server.close()


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"ci {TOKEN}\n")
    path.chmod(0o600)
    return str(path)


# -- doors


async def test_by_default_the_api_is_on_loopback_and_nowhere_else() -> None:
    async with serving() as up:
        assert await up.status("GET", "/api/v1/config") == 200
        sock = up.proxy.admin.bound[0]  # type: ignore[union-attr]
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:1234"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"x_forwarded_for": "10.0.0.1"}, 403),
        ({"host": "localhost:1"}, 200),
        ({"origin": "http://127.0.0.1"}, 200),
    ],
)
async def test_what_a_page_of_another_site_would_send_is_refused(headers: dict[str, str], status: int) -> None:
    async with serving() as up:
        assert await up.status("GET", "/api/v1/config", **headers) == status


async def test_forms_are_415_and_no_answer_allows_another_origin() -> None:
    async with serving() as up:
        status, headers, _ = await up.call("POST", "/api/v1/drain", {}, content_type="text/plain")
        assert status == 415
        status, headers, _ = await up.call("OPTIONS", "/api/v1/config", origin="http://127.0.0.1")
        assert status == 405
        assert not [name for name in headers if name.startswith("access-control")]
        assert up.server.life.state == "ready"


async def test_the_unix_socket_serves_the_api_with_a_token_or_without(tmp_path: Path, tokens: str) -> None:
    path = str(tmp_path / "api.sock")
    async with serving(socket=path, tokens=tokens) as up:
        status, _, shown = await up.call("GET", "/api/v1/config", unix=path, host="whatever.example")
        assert status == 200 and shown["listeners"] == []
        made = {"cluster": {"name": "c", "spec": {"protocol": "Echo"}}}
        assert await up.status("POST", "/api/v1/clusters", made, unix=path) == 200
        assert any("change revision=2" in line and f"unix uid={os.geteuid()}" in line for line in up.lines)
        assert (await up.call("GET", "/api/v1/sessions", unix=path))[2] == []
    assert not os.path.exists(path)


async def test_no_cluster_leads_to_the_unix_socket_of_the_api(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    async with serving(socket=path) as up:
        body = {"cluster": {"name": "sly", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [{"spec": {"address": path}}]}}
        status, _, answer = await up.call("POST", "/api/v1/clusters", body)
        assert status == 400 and "REST API" in answer["content"]


@pytest.mark.parametrize("protocol", ["TCP", "HTTP"])
async def test_a_name_that_turns_out_to_be_the_apis_own_address_is_not_connected_to(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    made = [cluster("sly", port, "sly.example", protocol=protocol)]
    conf = config(clusters=made, listeners=[listener("in", "sly", protocol=protocol)])
    async with serving(conf, admin=("127.0.0.1", port)) as up:

        async def rebound(host: str) -> Any:
            return Found([Place(socket.AF_INET, "127.0.0.1")], 5)

        monkeypatch.setattr(up.server.env.resolver.lookup, "find", rebound)
        async with tcp(port_of(up.proxy, "in")) as client:
            client.send(b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            try:
                answer = await client.read_all()
            except ConnectionResetError:
                answer = b""
        assert answer == b"" or (answer.startswith(b"HTTP/1.1 403") and b"where the REST API" in answer)


async def test_a_token_is_asked_for_on_tcp(tokens: str) -> None:
    async with serving(tokens=tokens) as up:
        status, headers, _ = await up.call("GET", "/api/v1/config")
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="carrier"')
        assert await up.status("GET", "/api/v1/config", authorization="Bearer wrong-wrong-wrong-wrong") == 401
        assert await up.status("GET", "/api/v1/config", authorization=f"Bearer {TOKEN}") == 200
        assert await up.status("GET", "/readyz") == 200


async def test_a_token_opens_an_address_that_others_reach(tokens: str) -> None:
    async with serving(admin=("0.0.0.0", 0), tokens=tokens) as up:
        assert await up.status("GET", "/api/v1/config", authorization=f"Bearer {TOKEN}") == 200
        assert await up.status("GET", "/api/v1/config") == 401


async def test_tokens_are_in_no_line_and_no_dump(tokens: str) -> None:
    async with serving(tokens=tokens) as up:
        made = {"cluster": {"name": "c", "spec": {"protocol": "Echo"}}}
        assert await up.status("POST", "/api/v1/clusters", made, authorization=f"Bearer {TOKEN}") == 200
        assert await up.status("POST", "/api/v1/clusters", made, authorization="Bearer wrong-wrong-wrong-wrong") == 401
        _, _, shown = await up.call("GET", "/api/v1/config", authorization=f"Bearer {TOKEN}")
        assert any('peer="ci at 127.0.0.1:' in line for line in up.lines)
        assert TOKEN not in "".join(up.lines) + json.dumps(shown)
        assert "wrong-wrong" not in "".join(up.lines)


async def test_mutual_tls(tmp_path: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))

    def client(by: trustme.CA | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
        if by is not None:
            by.issue_cert("me").configure_cert(context)
        return context

    files = {"ca": str(tmp_path / "ca.pem"), "certificate": str(tmp_path / "cert.pem")}
    async with serving(admin=("0.0.0.0", 0), **files) as up:
        assert await up.status("GET", "/api/v1/config", tls=client(ca), host="localhost") == 200
        for wrong in (None, other):
            with pytest.raises((ssl.SSLError, OSError, IndexError)):
                await up.call("GET", "/api/v1/config", tls=client(wrong), host="localhost")
        assert b"this port speaks TLS" in await up.raw("GET /api/v1/config HTTP/1.1")
    with pytest.raises(ConfigError, match="has no certificates"):
        (tmp_path / "ca.pem").write_text("no certificate")
        await start(Config(), Log(), Settings(admin=("127.0.0.1", 0), **files))


async def test_a_configured_listener_of_the_api_passes_the_same_gate(tokens: str) -> None:
    api = {"name": "api", "spec": {"protocol": "L7mpController"}}
    made = listener("ctl", "api", protocol="HTTP", spec={"address": "0.0.0.0"})
    async with serving(config(clusters=[api], listeners=[made]), admin=None, tokens=tokens) as up:
        port = port_of(up.proxy, "ctl")
        assert await up.status("GET", "/api/v1/config", port=port) == 401
        assert await up.status("GET", "/api/v1/config", port=port, authorization=f"Bearer {TOKEN}") == 200
    with pytest.raises(Error, match="open to other machines"):
        await start(config(clusters=[api], listeners=[made]), Log(), Settings(admin=None))


async def test_when_the_configured_listener_goes_the_unix_socket_stays(tmp_path: Path) -> None:
    api = {"name": "api", "spec": {"protocol": "L7mpController"}}
    path = str(tmp_path / "api.sock")
    conf = config(clusters=[api], listeners=[listener("ctl", "api", protocol="HTTP")])
    async with serving(conf, admin=None, socket=path) as up:
        assert await up.status("DELETE", "/api/v1/listeners/ctl", port=port_of(up.proxy, "ctl")) == 200
        assert (await up.call("GET", "/api/v1/listeners", unix=path))[2] == []


async def test_a_taken_port_leaves_the_unix_socket_and_a_warning(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with serving(admin=taken.getsockname(), socket=path) as up:
            assert up.proxy.admin is None
            assert any(" warn " in line and "has no TCP address" in line for line in up.lines)
            assert await up.status("GET", "/api/v1/config", unix=path) == 200


async def test_an_address_that_was_asked_for_is_had_or_there_is_no_start(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Error, match="in use"):
        await start(Config(), Log("silent"), Settings(admin=taken.getsockname(), admin_asked=True, socket=str(path)))
    assert not path.exists()


async def test_an_address_that_was_asked_for_and_is_lost_later_does_not_hold_a_change_up() -> None:
    api = {"name": "api", "spec": {"protocol": "L7mpController"}}
    conf = config(clusters=[api], listeners=[listener("ctl", "api", protocol="HTTP")])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with serving(conf, admin=taken.getsockname(), admin_asked=True) as up:
            assert await up.status("DELETE", "/api/v1/listeners/ctl", port=port_of(up.proxy, "ctl")) == 200


def test_a_failure_after_the_start_leaves_no_socket_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    def fail(server: Server) -> None:
        assert path.exists()
        raise RuntimeError("standard output is gone")

    with pytest.raises(RuntimeError, match="is gone"):
        run(Config(), Log("silent"), Settings(admin=None, socket=str(path)), started=fail)
    assert not path.exists()


# -- limits


async def test_a_body_beyond_the_limit_is_413_and_changes_nothing() -> None:
    async with serving(limits=Limits(body=1000)) as up:
        revision = up.proxy.config.revision
        status, _, answer = await up.call("POST", "/api/v1/clusters", {"cluster": "x" * 2000})
        assert (status, up.proxy.config.revision) == (413, revision)
        assert "1000 bytes" in answer["content"]


async def test_a_request_that_takes_too_long_to_come_is_408() -> None:
    async with serving(limits=Limits(request_timeout=0.2)) as up, tcp(up.admin) as client:
        client.send(b"POST /api/v1/clusters HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/json\r\nContent-Length: 100\r\n\r\n{")
        assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")


async def test_connections_beyond_the_limit_are_503_while_the_others_are_used_and_take_the_place_of_idle_ones() -> None:
    unfinished = b"POST /api/v1/rules HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/json\r\ncontent-length: 5\r\n\r\n"
    async with serving(limits=Limits(connections=2)) as up, tcp(up.admin) as first, tcp(up.admin) as second:
        for client in (first, second):
            client.send(unfinished)
        await wait_until(lambda: len(up.proxy.admin.live) == 2)  # type: ignore[union-attr]
        async with tcp(up.admin) as third:
            assert (await third.read_all()).startswith(b"HTTP/1.1 503")
    async with serving(limits=Limits(connections=2)) as up, tcp(up.admin) as first, tcp(up.admin) as second:
        await wait_until(lambda: len(up.proxy.admin.connections) == 2)  # type: ignore[union-attr]
        assert (await up.call("GET", "/api/v1/rules"))[0] == 200
        # One of them has left; they may have come in one moment, and then it is either.
        await wait_until(lambda: first.reader.at_eof() or second.reader.at_eof())


async def test_as_many_as_may_watch_leave_room_for_who_asks_and_the_next_one_is_told_so() -> None:
    async with serving() as up, contextlib.AsyncExitStack() as watching:
        for _ in range(VIEWERS):
            viewer = await watching.enter_async_context(tcp(up.admin))
            viewer.send(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await viewer.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        assert (await up.call("GET", "/api/v1/rules"))[0] == 200
        status, _, body = await up.call("GET", "/api/v1/events")
        assert status == 503 and f"{VIEWERS} viewers watch already" in str(body)


@pytest.mark.parametrize("body", ["[" * 40 + "]" * 40, json.dumps({"rules": [{} for _ in range(60)]})])
async def test_depth_and_objects_have_configurable_limits(body: str) -> None:
    async with serving(limits=Limits(depth=30, objects=50)) as up:
        answer = await up.server.api.call("POST", "/api/v1/rules", "", {"content-type": "text/json"}, body.encode())
        assert answer.status == 400 and (b"30 levels" in answer.body or b"50 objects" in answer.body or b"too many" in answer.body)


# -- health


async def test_health_has_an_address_of_its_own_that_changes_nothing(tokens: str) -> None:
    port = free_port()
    async with serving(health=("0.0.0.0", port), tokens=tokens) as up:
        for path in ("/healthz", "/readyz", "/startupz"):
            status, headers, shown = await up.call("GET", path, port=port, host="10.1.2.3")
            assert (status, shown["status"], headers["cache-control"]) == (200, "ok", "no-store")
        for method, path, status in (
            ("POST", "/readyz", 405),
            ("DELETE", "/api/v1/listeners/x", 405),
            ("GET", "/api/v1/config", 404),
            ("GET", "/", 404),
        ):
            assert await up.status(method, path, port=port) == status
        assert (await up.call("GET", "/api/v1/sessions", authorization=f"Bearer {TOKEN}"))[2] == []


async def test_readiness_says_starting_until_the_configuration_is_in_force() -> None:
    async with serving() as up:
        life = up.server.life
        life.started = False
        assert life.answer("/readyz") == (503, {"status": "not ready", "state": "starting", "reasons": life.reasons()})
        assert life.answer("/startupz")[0] == 503
        assert life.answer("/healthz")[0] == 200


# -- drain


async def test_post_drain_turns_readiness_off_and_still_accepts_for_a_moment() -> None:
    conf = config(clusters=[echo()], listeners=[listener("web", protocol="HTTP"), listener("in")])
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    async with serving(conf, delay=0.3, drain=5.0) as up, tcp(port_of(up.proxy, "web")) as old:
        web, raw = port_of(up.proxy, "web"), port_of(up.proxy, "in")
        old.send(request)
        await old.reader.readuntil(b"0\r\n\r\n")
        assert (await up.call("POST", "/api/v1/drain"))[2]["state"] == "draining"
        status, _, shown = await up.call("GET", "/readyz")
        assert (status, shown["reasons"]) == (503, ["draining"])
        assert await up.status("GET", "/startupz") == 200
        old.send(request)
        assert b"connection: close" in await old.read_all()
        async with tcp(raw) as live:
            live.send(b"x")
            assert await live.read(1) == b"x"
            await wait_until(lambda: not up.proxy.listeners["in"].bound)
            for port in (web, raw):
                with pytest.raises(OSError):
                    async with tcp(port):
                        pass
            live.send(b"y")
            assert await live.read(1) == b"y"
            assert (await up.call("GET", "/api/v1/drain"))[2]["sessions"] == 1
            refused = await up.call("POST", "/api/v1/clusters", {"cluster": {"name": "c", "spec": {"protocol": "Echo"}}})
            assert refused[0] == 503 and "ending" in refused[2]["content"]
            live.end()
            assert await live.read_all() == b""
        assert await up.server.life.drained() == 0
        assert (await up.call("GET", "/api/v1/drain"))[2]["state"] == "drained"


async def test_a_lease_runs_out_during_a_drain_as_at_any_time() -> None:
    conf = config(clusters=[echo()], listeners=[listener("web", protocol="HTTP", port=free_port()), listener("in")])
    async with serving(conf, drain=10) as up, tcp(port_of(up.proxy, "in")) as live:
        live.send(b"x")
        await live.read(1)
        match = {"matchHeader": {"name": "x-user", "value": "john"}}
        body = {"listener": "web", "user": "john", "match": match, "endpoint": "127.0.0.1:9", "expires": 0.3}
        assert await up.status("PUT", "/api/v1/bridges/john", body) == 201
        assert await up.status("POST", "/api/v1/drain") == 200
        await wait_until(lambda: not up.proxy.config.bridges)
        assert not up.proxy.listeners["web"].bound
        assert not [line for line in up.lines if " error " in line]


async def test_what_is_left_when_the_time_is_over_is_cut_and_counted() -> None:
    async with serving(config(clusters=[echo()], listeners=[listener("in")]), drain=0.2) as up, tcp(port_of(up.proxy, "in")) as client:
        client.send(b"x")
        await client.read(1)
        up.server.life.begin_drain("a test")
        assert await up.server.life.drained() == 1
        assert await client.read_all() == b""


async def test_somebody_in_a_hurry_ends_the_drain() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in")])
    async with serving(conf, drain=60.0, delay=30.0) as up, tcp(port_of(up.proxy, "in")) as client:
        client.send(b"x")
        await client.read(1)
        up.server.life.begin_drain("a test")
        up.server.life.end_at_once()
        assert await asyncio.wait_for(up.server.life.drained(), 5) == 1


async def test_a_quiet_datagram_session_is_served_to_the_end_and_is_not_cut_work() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in", protocol="UDP")])
    async with serving(conf, drain=1.8) as up, udp(port_of(up.proxy, "in")) as client:
        client.send(b"x")
        assert await client.read() == b"x"
        up.server.life.begin_drain("a test")
        await asyncio.sleep(0.05)
        client.send(b"y")
        assert await client.read() == b"y"
        assert await up.server.life.drained() == 0


async def test_a_dry_run_drains_nothing() -> None:
    async with serving(config(clusters=[echo()], listeners=[listener("in")])) as up:
        for path in ("/drain", "/listeners/in/drain"):
            assert await up.status("POST", f"/api/v1{path}?dryRun=true") == 200
        assert up.server.life.state == "ready" and up.proxy.listeners["in"].bound


async def test_one_listener_drains_and_comes_back() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in", port=free_port()), listener("other")])
    async with serving(conf) as up, tcp(port_of(up.proxy, "in")) as live:
        port = port_of(up.proxy, "in")
        live.send(b"x")
        await live.read(1)
        assert await up.status("POST", "/api/v1/listeners/in/drain") == 200
        with pytest.raises(OSError):
            async with tcp(port):
                pass
        live.send(b"y")
        assert await live.read(1) == b"y"
        assert await up.status("GET", "/readyz") == 200
        assert (await up.call("GET", "/api/v1/drain"))[2]["listeners"] == ["in"]
        assert await up.status("DELETE", "/api/v1/listeners/in/drain") == 200
        async with tcp(port) as new:
            new.send(b"z")
            assert await new.read(1) == b"z"
        assert await up.status("DELETE", "/api/v1/listeners/in/drain") == 400
        assert await up.status("POST", "/api/v1/listeners/nope/drain") == 400


async def test_an_http_listener_drains_and_comes_back() -> None:
    conf = config(clusters=[echo()], listeners=[listener("web", protocol="HTTP", port=free_port())])
    async with serving(conf) as up:
        port = port_of(up.proxy, "web")
        assert (await http(port, method="POST", body=b"x"))[2] == b"x"
        assert await up.status("POST", "/api/v1/listeners/web/drain") == 200
        with pytest.raises(OSError):
            await http(port)
        assert await up.status("DELETE", "/api/v1/listeners/web/drain") == 200
        assert (await http(port, method="POST", body=b"y"))[2] == b"y"


async def test_a_datagram_listener_drains_its_peers_and_comes_back_with_them() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in", protocol="UDP", port=free_port(socket.SOCK_DGRAM))])
    async with serving(conf) as up, udp(port_of(up.proxy, "in")) as old, udp(port_of(up.proxy, "in")) as new:
        old.send(b"1")
        assert await old.read() == b"1"
        assert await up.status("POST", "/api/v1/listeners/in/drain") == 200
        new.send(b"lost")
        old.send(b"2")
        assert await old.read() == b"2"
        assert await up.status("DELETE", "/api/v1/listeners/in/drain") == 200
        for client, text in ((old, b"3"), (new, b"4")):
            client.send(text)
            assert await client.read() == text


async def test_too_many_connections_are_refused_until_there_are_fewer_when_all_are_used() -> None:
    unfinished = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
    conf = config(clusters=[echo()], listeners=[listener("web", protocol="HTTP")])
    async with serving(conf, bounds=Bounds(connections=2)) as up:
        port = port_of(up.proxy, "web")
        async with tcp(port) as first, tcp(port) as second, tcp(port) as third:
            for client in (first, second, third):
                client.send(unfinished)
            await wait_until(lambda: up.server.watch.reason)
            status, headers, body = await http(port)
            assert (status, headers["retry-after"]) == (503, "1") and b"connections (limit 2)" in body
            assert await up.status("GET", "/api/v1/config") == 200
        await wait_until(lambda: not up.server.watch.reason)
        assert (await http(port, method="POST", body=b"x"))[0] == 200


async def test_a_websocket_in_a_tunnel_of_an_http_listener_is_closed_with_1001() -> None:
    async def echo_back(peer: ServerConnection) -> None:
        async for message in peer:
            await peer.send(message)

    async with serve(echo_back, "127.0.0.1", 0) as upstream:
        up_port = next(iter(upstream.sockets)).getsockname()[1]
        conf = config(clusters=[cluster("ws", up_port, protocol="HTTP")], listeners=[listener("web", "ws", protocol="HTTP")])
        async with serving(conf) as up, connect(f"ws://127.0.0.1:{port_of(up.proxy, 'web')}/") as client:
            for text in ("x", "y" * 100_000):
                await client.send(text)
                assert await client.recv() == text
            up.server.life.begin_drain("a test")
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(client.recv(), 5)
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1001
            assert await up.server.life.drained() == 0


async def test_a_configured_listener_of_the_api_has_the_limits_of_the_api_unless_it_says_otherwise() -> None:
    api = {"name": "api", "spec": {"protocol": "L7mpController"}}
    made = [listener("a", "api", protocol="HTTP"), listener("b", "api", protocol="HTTP", options={"max_connections": 7})]
    async with serving(config(clusters=[api], listeners=made), admin=None) as up:
        assert [up.proxy.listeners[name].max_connections for name in "ab"] == [Limits().connections, 7]  # type: ignore[attr-defined]
        assert up.proxy.config.listeners["a"].options == {}


async def test_breakers_are_options_of_every_cluster_that_put_takes() -> None:
    async with serving() as up:
        for protocol in ("HTTP", "TCP", "UDP", "WebSocket"):
            body = {**cluster("c", 9, protocol=protocol), "options": {"max_connections": 5, "max_pending": 6, "max_retries": 7}}
            status, _, answer = await up.call("PUT", "/api/v1/clusters/c", {"cluster": body})
            assert status == 200, answer
            breaker = up.proxy.clusters["c"].breaker
            assert (breaker.max_connections, breaker.max_pending, breaker.max_retries) == (5, 6, 7)


async def test_one_endpoint_drains_through_other_changes_and_comes_back() -> None:
    async def named(name: bytes, peer: Any) -> None:
        while await peer.reader.read(1):
            peer.send(name)

    async with tcp_server(lambda peer: named(b"a", peer)) as a, tcp_server(lambda peer: named(b"b", peer)) as b:
        up_cluster = cluster("up", a.port, loadbalancer={"policy": "Trivial"})
        up_cluster["endpoints"].append({"name": "up-b", "spec": {"address": "127.0.0.1", "port": b.port}})
        conf = config(clusters=[up_cluster], listeners=[listener("in", "up")])

        async def asked(peer: Any) -> bytes:
            peer.send(b"?")
            return bytes(await peer.read(1))

        async with serving(conf) as up, tcp(port_of(up.proxy, "in")) as live:
            assert await asked(live) == b"a"
            assert await up.status("POST", "/api/v1/endpoints/up-0/drain") == 200
            async with tcp(port_of(up.proxy, "in")) as new:
                assert await asked(new) == b"b"
            assert await asked(live) == b"a"
            assert await up.status("POST", "/api/v1/clusters", {"cluster": {"name": "c", "spec": {"protocol": "Echo"}}}) == 200
            body = {"endpoint": {"spec": {"address": "127.0.0.1"}, "weight": 2}}
            assert (
                await up.status(
                    "PUT", "/api/v1/endpoints/up-b", {"endpoint": {**body["endpoint"], "spec": {"address": "127.0.0.1", "port": b.port}}}
                )
                == 200
            )
            async with tcp(port_of(up.proxy, "in")) as new:
                assert await asked(new) == b"b"
            assert await up.status("DELETE", "/api/v1/endpoints/up-0/drain") == 200
            async with tcp(port_of(up.proxy, "in")) as new:
                assert await asked(new) == b"a"
            assert await up.status("POST", "/api/v1/endpoints/nope/drain") == 400


# -- audit


async def test_every_write_has_an_audit_line_with_names_and_no_contents() -> None:
    async with serving() as up:
        secret = {"rule": {"name": "r", "match": {"matchHeader": {"name": "authorization", "value": "hunter2"}}, "action": {}}}
        assert await up.status("POST", "/api/v1/rules", secret) == 200
        assert await up.status("POST", "/api/v1/rules", secret) == 400
        assert await up.status("DELETE", "/api/v1/rules/r?dryRun=true") == 200
        assert await up.status("DELETE", "/api/v1/rules/r") == 200
        assert await up.status("GET", "/api/v1/rules") == 200
        lines = [line.split(" change ")[1].strip() for line in up.lines if " change " in line]
        assert [line.replace(line.split("peer=")[1].split()[0], "P") for line in lines] == [
            'revision=2 peer=P call="POST /rules" result=200 names=+rules/r',
            'refused revision=2 peer=P call="POST /rules" result=400 reason="Cannot add rule: Rule \\"r\\" already defined"',
            'revision=2 peer=P call="DELETE /rules/r" result="200 dry run"',
            'revision=3 peer=P call="DELETE /rules/r" result=200 names=-rules/r',
        ]
        assert "hunter2" not in "".join(up.lines)


# -- state


async def test_a_change_is_on_disk_before_its_answer_and_back_after_a_restart(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    made = {"cluster": {"name": "c", "spec": {"protocol": "Echo"}}}
    async with serving(state=folder, text="base") as up:
        _, headers, _ = await up.call("POST", "/api/v1/clusters", made)
        revision = headers["carrier-revision"]
        assert f"revision-{revision}.json" in os.listdir(folder)
    async with serving(state=folder, text="base") as up:
        assert list(up.proxy.config.clusters) == ["c"]
        assert up.proxy.config.revision == int(revision)
    conf, _ = from_document({"clusters": [{"name": "new", "spec": {"protocol": "Echo"}}]})
    for times in range(2):
        async with serving(conf, state=folder, text="another") as up:
            assert list(up.proxy.config.clusters) == ["new"]
            assert up.proxy.config.revision > int(revision)
            dropped = [line for line in up.lines if "dropped: clusters/c" in line]
            assert len(dropped) == (times == 0)


async def test_a_change_that_cannot_be_kept_is_refused_and_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(state=str(tmp_path / "state")) as up:
        before = up.proxy.config

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        status, _, answer = await up.call("POST", "/api/v1/clusters", {"cluster": {"name": "c", "spec": {"protocol": "Echo"}}})
        assert status == 500 and "No space left" in answer["content"]
        assert up.proxy.config is before


# -- the page, and what it reads


async def test_a_browser_gets_the_page_and_the_file_may_forbid_it(tmp_path: Path) -> None:
    async with serving() as up:
        assert (await up.raw("GET / HTTP/1.1", "accept: text/html")).startswith(b"HTTP/1.1 200 OK")
        assert b"<!doctype html>" in await up.raw("GET / HTTP/1.1", "accept: text/html")
        assert b'"calls"' in await up.raw("GET / HTTP/1.1", "accept: */*")
        head = await up.raw("HEAD /web/page.js HTTP/1.1", "accept-encoding: gzip")
        assert b"content-encoding: gzip" in head and head.endswith(b"\r\n\r\n")
        await up.proxy.apply(msgspec.structs.replace(up.proxy.config, admin=Admin(options={"page": False})))
        up.server._prepare(up.proxy.config)()
        assert b"<!doctype html>" not in await up.raw("GET / HTTP/1.1", "accept: text/html")
    async with serving(page=False) as up:
        assert b"404 Not Found" in await up.raw("GET /web/page.js HTTP/1.1")


async def test_the_audit_tells_changes_and_refusals_and_revisions_can_be_read() -> None:
    async with serving() as up:
        before = up.proxy.config.revision
        await up.call("POST", "/api/v1/clusters", {"cluster": {"name": "later", "spec": {"protocol": "Echo"}}})
        await up.call("PUT", "/api/v1/bridges/john", {"port": 1})
        _, _, found = await up.call("GET", "/api/v1/audit")
        refused, change, started = found["entries"]
        assert refused["refused"] and refused["call"] == "PUT /bridges/john" and refused["reason"]
        assert (change["call"], change["names"], change["revision"]) == ("POST /clusters", "+clusters/later", before + 1)
        assert started["what"] == "started" and found["kept"] == [before + 1, before]
        _, _, then = await up.call("GET", f"/api/v1/revisions/{before}")
        _, _, now = await up.call("GET", f"/api/v1/revisions/{before + 1}")
        assert "later" in json.dumps(now) and "later" not in json.dumps(then)
        assert await up.status("GET", "/api/v1/revisions/999") == 404 == await up.status("GET", "/api/v1/revisions/x")
        assert await up.status("POST", "/api/v1/config", then) == 200  # as it was read
