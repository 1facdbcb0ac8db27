"""What people reported of proxies in front of their apps: early answers, upgrades with content, trailers; with real peers."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from carrier import model as c
from carrier.wire.frames import accept_key
from tests.conversation import Peer, Stage
from tests.e2e.test_http_bodies import GET, OK, answered
from tests.h2peer import client2
from tests.support import cluster, config, http, listener, port_of, running, tcp_server
from tests.wire import field, websocket

# ------------------------------------------------------------------ an answer before the request's end


async def takes_no_more(server: Peer, words: bytes) -> None:
    """The server says this and closes, with something unread: that becomes a reset, and all of it within this moment."""
    server.writer.transport.pause_reading()
    sock = socket.socket(fileno=os.dup(server.writer.get_extra_info("socket").fileno()))
    server.writer.transport.abort()
    await asyncio.sleep(0.02)
    sock.setblocking(True)
    sock.sendall(words)
    sock.close()


@pytest.mark.parametrize("framing", [b"content-length: 3\r\n\r\nbig", b"transfer-encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n"])
@pytest.mark.parametrize("upload", [b"content-length: 100000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
async def test_an_early_answer_is_read_before_a_broken_connection_is_given_up(upload: bytes, framing: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\n" + upload)
        piece = b"x" * 10000 if b"length" in upload else b"2710\r\n" + b"x" * 10000 + b"\r\n"
        await client.says(piece * 9)
        await asyncio.sleep(0.02)
        await takes_no_more(server, b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n" + framing)
        (connection,) = stage.listener._connections  # type: ignore[attr-defined]
        for _ in range(2):
            connection.data_received(piece)  # written before the event loop reads again: the kernel refuses it
        assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        assert b"big" in await client.until(b"big")


async def test_without_last_words_it_is_502() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")
        server.breaks()
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")


# ------------------------------------------------------------------ upgrades with content, trailers

SWITCH = b"HTTP/1.1 101 UPGRADED\r\ncontent-type: application/vnd.docker.raw-stream\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n"
EXEC = b"POST /exec/1/start HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: tcp\r\n"


@pytest.mark.parametrize("at", ["with the head", "before the 101", "after the 101"])
@pytest.mark.parametrize(
    ("framing", "content"),
    [(b"content-length: 2\r\n\r\n", b"{}"), (b"transfer-encoding: chunked\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n")],
)
async def test_a_request_with_content_is_switched_after_its_content(framing: bytes, content: bytes, at: str) -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(EXEC + framing + (content if at == "with the head" else b""))
        assert b"connection: upgrade\r\nupgrade: tcp\r\n" in head
        if at != "after the 101":
            if at == "before the 101":
                await client.says(content)
            assert await server.hears(len(content)) == content
            await server.says(SWITCH + b"early")
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        else:
            await server.says(SWITCH + b"early")
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            await client.says(content + b"raw")
            assert await server.hears(len(content) + 3) == content + b"raw"
        assert await client.hears(5) == b"early"
        await client.says(b"ls\n")
        assert await server.hears(3) == b"ls\n"
        await server.says(b"bin\n")
        assert await client.hears(4) == b"bin\n"
        client.ends()
        assert await server.rest() == b""
        await server.says(b"last")
        server.goes()
        assert await client.rest() == b"last"


async def test_an_upgrade_with_content_that_is_declined_leaves_the_connections_usable() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(EXEC + b"content-length: 2\r\n\r\n{}")
        assert await server.hears(2) == b"{}"
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"
        await client.says(GET)
        assert (await server.head()).startswith(b"GET ")


@pytest.mark.parametrize("value", [b"trailers", b"gzip, trailers", b"Trailers, deflate;q=0.5"])
async def test_that_trailers_are_welcome_is_passed_on_and_no_other_coding(value: bytes) -> None:
    async with Stage() as stage:
        for _ in range(3):
            client, _, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: TE\r\nte: " + value + b"\r\n\r\n")
            assert head.count(b"te: trailers\r\n") == 1 and b"connection: te\r\n" in head and b"gzip" not in head
            client.breaks()
        client, _, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nte: gzip\r\n\r\n")
        assert b"te:" not in head
        client.breaks()


# ------------------------------------------------------------------ authentication of a connection

OFFER = b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: %b\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "offers", [b"NTLM", b"Negotiate", b"negotiate, ntlm", b"Basic realm=x, NTLM", b"Basic realm=x\r\nWWW-Authenticate: Negotiate"]
)
async def test_a_connection_that_was_authenticated_serves_its_client_and_nobody_else(offers: bytes) -> None:
    async with Stage() as stage:
        alice, hers, _ = await stage.both(GET)
        await hers.says(OFFER % offers)
        await answered(alice)
        for credentials, answer in ((b"NTLM one", OFFER % b"NTLM challenge"), (b"NTLM two", OK), (b"", OK)):
            mallory, server, _ = await stage.both(GET)  # in between, and not on her connection
            await server.says(OK)
            assert (await answered(mallory))[1] == b"ok"
            await alice.says(
                b"GET / HTTP/1.1\r\nhost: a\r\n" + (b"authorization: " + credentials + b"\r\n" if credentials else b"") + b"\r\n"
            )
            assert credentials in await hers.head()
            await hers.says(answer)
            await answered(alice)
            mallory.breaks()
            server.breaks()
        alice.breaks()
        assert await hers.closed()


UNASKED = [b"Negotiate YII", b"NTLM TlRM", b"negotiate YII", b"ntlm", b"NEGOTIATE\tYII", b"Negotiate", b" NTLM  TlRM"]


@pytest.mark.parametrize("said", UNASKED)
@pytest.mark.parametrize("known", [False, True])
async def test_credentials_of_a_connection_that_nobody_asked_for_bind_it_as_well(said: bytes, known: bool) -> None:
    """Negotiate in the first request, as curl -u : --negotiate and browsers of an intranet send it. known: heads of this kind, with tokens
    that always differ, have been learnt before."""
    async with Stage() as stage:
        if known:
            client, server, _ = await stage.both(GET)
            await server.says(OK)
            await answered(client)
            for n in range(100):
                await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %d\r\n\r\n" % n)
                assert b"Bearer %d\r\n" % n in await server.head()
                await server.says(OK)
                await answered(client)
            client.breaks()
            server.breaks()
        for body in (b"", b"content-length: 2\r\n"):
            alice, hers, head = await stage.both(
                b"POST / HTTP/1.1\r\nhost: a\r\nauthorization: " + said + b"\r\n" + body + b"\r\n" + (b"hi" if body else b"")
            )
            assert said.strip() in head
            if body:
                assert await hers.hears(2) == b"hi"
            await hers.says(OK)
            assert (await answered(alice))[1] == b"ok"
            mallory, server, _ = await stage.both(GET)  # not on her connection
            await server.says(OK)
            assert (await answered(mallory))[1] == b"ok"
            await alice.says(GET)  # she has it to herself, with or without credentials
            await hers.head()
            await hers.says(OK)
            assert (await answered(alice))[1] == b"ok"
            alice.breaks()
            assert await hers.closed()
            mallory.breaks()
            server.breaks()


async def test_credentials_over_http_2_are_used_for_one_request_on_a_connection_of_its_own() -> None:
    async with Stage() as stage, client2(stage.port) as alice:
        for _ in range(2):
            number = alice.ask("/", fields=[("authorization", "Negotiate YII")])
            hers = await stage.server()
            assert b"Negotiate YII" in await hers.head()
            await hers.says(OK)
            assert (await alice.answer(number)).body == b"ok"
            assert await hers.closed()


async def test_other_schemes_share_connections() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OFFER % b'Basic realm="ntlm", Digest realm="a"')
        await answered(client)
        other = await stage.client()
        await other.says(GET)
        await server.head()
        await server.says(OK)
        await answered(other)


# ------------------------------------------------------------------ transforms that do not change lengths


async def test_behind_transforms_that_pass_on_what_came_a_wsgi_app_sees_the_body() -> None:
    """WSGI servers, http.server among them, read CONTENT_LENGTH bytes, and nothing of what comes in chunks."""

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        said = b"%d bytes: %b" % (len(body), body)
        start("200 OK", [("Content-Length", str(len(said)))])
        return [said]

    loop = asyncio.get_running_loop()
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        serving = loop.run_in_executor(None, server.serve_forever, 0.01)
        try:
            ways = [{"protocol": "Logger", "log_file": os.devnull}, {"protocol": "Metric"}, {"protocol": "Mirror", "cluster": "copy"}]
            stages = [{"name": spec["protocol"], "spec": spec} for spec in ways]
            names = [stage["name"] for stage in stages]
            up = cluster("up", server.server_port, protocol="HTTP")
            copy = {"name": "copy", "spec": {"protocol": "Discard"}}
            in_ = listener("in", "up", protocol="HTTP", ingress=names, egress=names[:2])
            async with running(config(clusters=[up, copy, *stages], listeners=[in_])) as proxy:
                status, fields, body = await http(port_of(proxy, "in"), "/", "POST", body=b"hello")
            assert (status, body, fields.get("content-length")) == (200, b"5 bytes: hello", "14")
            assert "transfer-encoding" not in fields
        finally:
            server.shutdown()
            await serving


async def test_behind_one_that_changes_lengths_the_length_is_not_said() -> None:
    more = {"encap": c.Cluster("encap", {"protocol": "JSONEncap"})}
    async with Stage(clusters=more) as stage:
        conf = stage.config()
        routes = {**conf.routes, "up": c.Route("up", "up", ingress=("encap",))}
        await stage.proxy.apply(stage.config(routes=routes))
        _, _, head = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        assert b"transfer-encoding: chunked\r\n" in head and b"content-length" not in head


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...


# ------------------------------------------------------------------ paths that servers read differently

ADMIN = {"matchPath": {"path": "/admin", "type": "prefix"}}
STRANGE = ["/admin%00", "/x/..;/admin", "/x%2f..%2fadmin", "/x%5c..%5cadmin", "/%c0%ae%c0%ae/admin"]


@pytest.mark.parametrize("target", STRANGE)
async def test_a_path_without_an_agreed_form_is_refused_where_rules_look_at_paths(target: str) -> None:
    async with Stage(rules=((ADMIN, "other", ()),), clusters={"other": c.Cluster("other", {"protocol": "Discard"})}) as stage:
        for _ in range(3):
            status, _, body = await http(stage.port, target)
            assert status == 400 and b"strict_path" in body and stage.accepted.empty()


RAW = {"matchPath": {"path": "/never", "type": "prefix", "raw": True}}


@pytest.mark.parametrize(("rule", "options"), [(None, {}), (ADMIN, {"strict_path": 0}), (RAW, {})])
async def test_where_none_do_or_it_is_wished_it_goes_on_as_it_came(rule: Any, options: dict[str, Any]) -> None:
    rules, other = (((rule, "other", ()),), {"other": c.Cluster("other", {"protocol": "Discard"})}) if rule else ((), {})
    async with Stage(rules=rules, clusters=other, listener=options) as stage:
        for target in STRANGE:
            client, _, head = await stage.both(b"GET " + target.encode() + b" HTTP/1.1\r\nhost: a\r\n\r\n")
            assert head.startswith(b"GET " + target.encode())
            client.breaks()


async def test_a_plain_escaped_slash_has_an_agreed_form() -> None:
    async with Stage(rules=((ADMIN, "other", ()),), clusters={"other": c.Cluster("other", {"protocol": "Discard"})}) as stage:
        client, _, head = await stage.both(b"GET /x%2Fy HTTP/1.1\r\nhost: a\r\n\r\n")
        assert head.startswith(b"GET /x%2Fy ")
        client.breaks()


@pytest.mark.parametrize("between", [[], ["count"]])
@pytest.mark.parametrize("upstream", ["HTTP", "WebSocket", "auto"])
@pytest.mark.parametrize("protocol", ["HTTP", "WebSocket", "auto"])
async def test_a_101_without_a_chosen_subprotocol_stays_so(protocol: str, upstream: str, between: list[str]) -> None:
    """The client has offered two; a server that knows neither chooses none, and nobody does so in its place."""

    async def server(peer: Any) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert field(head, "sec-websocket-protocol") == "chat, superchat"
        key = (field(head, "sec-websocket-key") or "").encode()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n")
        peer.send(b"sec-websocket-accept: " + accept_key(key) + b"\r\n\r\n")
        await peer.reader.read()

    async with tcp_server(server) as up:
        clusters = [{"name": "count", "spec": {"protocol": "Metric"}}, cluster("up", up.port, protocol=upstream)]
        front = listener("in", "up", protocol=protocol, ingress=between)
        async with (
            running(config(clusters=clusters, listeners=[front])) as proxy,
            websocket(port_of(proxy, "in"), sec_websocket_protocol="chat, superchat") as client,
        ):
            assert client.head.startswith(b"HTTP/1.1 101 ") and field(client.head, "sec-websocket-protocol") is None


# ------------------------------------------------------------------ answers that others take, too


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\ncontent-length: 2\nx-a: 1\n\nok", b"200", b"ok"),
        (b"HTTP/1.1 200 OK\nx-a: 1\n\nok", b"200", b"2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\ncontent-length: 6\nx-a: 1\n\na\r\n\r\nb", b"200", b"a\r\n\r\nb"),
        (b"HTTP/1.1 999 Denied\r\ncontent-length: 2\r\nx-a: 1\r\n\r\nno", b"999", b"no"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\nContent-Length: 2\r\n\r\nok", b"200", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"200",
            b"2\r\nok\r\n0\r\n\r\n",
        ),
    ],
)
@pytest.mark.parametrize("cut", [0, 1])
async def test_an_answer_as_scripts_and_old_servers_write_it_is_delivered(raw: bytes, status: bytes, body: bytes, cut: int) -> None:
    """`printf 'HTTP/1.1 200 OK\\n\\nhello' | nc -l`, a length said twice, a status of nobody's: nginx and haproxy deliver all of them."""
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        for i in range(0, len(raw), cut or len(raw)):
            await server.says(raw[i : i + (cut or len(raw))])
        server.ends()
        heard = b""
        while not heard.endswith(body) or b"x-a: 1" not in heard:
            heard += await client.hears(1)
        final = heard[heard.rindex(b"HTTP/1.1 ") :]
        assert final.startswith(b"HTTP/1.1 " + status + b" ") and b"\n\n" not in final.replace(b"\r\n", b"")
        await client.says(GET)
        server = await stage.server()  # where the old one was of doubtful framing, on another connection
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"


async def test_a_101_that_forgets_its_connection_field_has_switched() -> None:
    """Proxmox Backup Server up to 3.1; nginx passes it, haproxy and Caddy do not."""
    async with Stage() as stage:
        client, server, _ = await stage.both(
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: proxmox-backup-protocol-v1\r\n\r\n"
        )
        await server.says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: proxmox-backup-protocol-v1\r\n\r\npreface")
        heard = await client.head()
        assert heard.startswith(b"HTTP/1.1 101 ") and b"connection: upgrade\r\nupgrade: proxmox-backup-protocol-v1\r\n" in heard
        assert await client.hears(7) == b"preface"


async def test_a_hint_before_the_switch_is_passed() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n")
        await server.says(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\nhi")
        assert (await client.head()).startswith(b"HTTP/1.1 103 ")
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        assert await client.hears(2) == b"hi"
