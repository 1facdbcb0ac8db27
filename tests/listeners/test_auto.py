"""A port of any protocol: HTTP is routed by requests, everything else is relayed as if nobody stood in between."""

import asyncio
import contextlib
import socket
import ssl

import pytest
import trustme

from carrier.hops.certificates import ClientTls
from carrier.hops.tlstransport import secure_upstream
from tests.ports import free_port
from tests.support import ask, cluster, config, http, port_of, running, tcp, tcp_server, wait_until, without


def auto(shadow, *rules, **spec):
    """A port whose rules lead to clusters of protocol auto."""
    return {
        "name": "in",
        "spec": {"port": 0, "protocol": "auto", "address": "127.0.0.1", **spec},
        "rules": [*rules, {"action": {"route": {"destination": shadow}}}],
    }


def john(value="john"):
    return {
        "match": {"matchHeader": {"name": "x-user", "value": value}},
        "action": {"route": {"destination": "john", "fallback": "shadow"}},
    }


def to(name, port, **spec):
    found = cluster(name, port, protocol="auto")
    return {**found, "spec": {**found["spec"], **spec}}


async def answering(peer, text):
    while True:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))


def named(text):
    async def serve(peer):
        await answering(peer, text)

    return serve


@contextlib.asynccontextmanager
async def before(shadow_port, *rules, **spec):
    """The proxy of a port with one shadow."""
    async with running(config(clusters=[to("shadow", shadow_port)], listeners=[auto("shadow", *rules, **spec)])) as proxy:
        yield port_of(proxy, "in")
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_http_is_routed_request_by_request():
    async with tcp_server(named(b"shadow")) as shadow, tcp_server(named(b"laptop")) as laptop:
        conf = config(clusters=[to("shadow", shadow.port), to("john", laptop.port)], listeners=[auto("shadow", john())])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            for user, expected in ((b"john", b"laptop"), (b"jane", b"shadow"), (b"john", b"laptop")):
                client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-user: %b\r\n\r\n" % user)
                assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await client.read(6) == expected


async def test_a_request_in_single_bytes_is_still_http():
    async with tcp_server(named(b"shadow")) as shadow, before(shadow.port) as port, tcp(port) as client:
        for byte in b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n":
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.read_all()).endswith(b"shadow")


async def test_anything_else_is_relayed_untouched_with_its_half_close():
    async def count(peer):
        data = await peer.reader.read()
        peer.send(data[:20] + b" %d" % len(data))
        peer.end()

    async with tcp_server(count) as shadow, before(shadow.port, john()) as port:
        for first in (b"\x00\x01\x02" * 7, b"SELECT 1;\n" * 3, b"GE"):
            async with tcp(port) as client:
                data = first if first == b"GE" else first + b"x" * 300_000
                client.send(data)
                client.end()
                assert await client.read_all() == data[:20] + b" %d" % len(data)


async def test_a_server_that_speaks_first_is_heard():
    async def greet(peer):
        peer.send(b"220 ready\r\n")
        assert await peer.read(6) == b"EHLO x"
        peer.send(b"250 ok")
        peer.end()

    async with tcp_server(greet) as shadow, before(shadow.port, john()) as port, tcp(port) as client:
        assert await client.read(11) == b"220 ready\r\n"
        client.send(b"EHLO x")
        assert await client.read_all() == b"250 ok"


async def test_words_of_http_after_a_servers_greeting_are_refused_and_not_passed_on_unread():
    async def greet(peer):
        peer.send(b"hello\n")
        try:
            heard.append(await peer.reader.read())
        except ConnectionError:
            heard.append(b"")

    heard = []
    async with tcp_server(greet) as shadow, before(shadow.port) as port, tcp(port) as client:
        assert await client.read(6) == b"hello\n"
        client.send(b"get / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.read_all()).startswith(b"HTTP/1.1 400 ")
        await wait_until(lambda: heard)
        assert heard == [b""]


async def test_an_http_client_that_connects_early_and_asks_late_is_routed_by_its_request():
    async with tcp_server() as shadow, tcp_server(named(b"laptop")) as laptop:
        conf = config(clusters=[to("shadow", shadow.port), to("john", laptop.port)], listeners=[auto("shadow", john())])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            early = await shadow.peer()  # silence was taken for a client that waits to be greeted
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-user: john\r\nconnection: close\r\n\r\n")
            assert (await client.read_all()).endswith(b"laptop")
            assert await early.read_all() == b""


async def test_a_silent_client_and_a_dead_laptop_do_no_harm():
    async with tcp_server(named(b"shadow")) as shadow:
        conf = config(clusters=[to("shadow", shadow.port), to("john", 1)], listeners=[auto("shadow", john())])
        async with running(conf) as proxy:
            async with tcp(port_of(proxy, "in")):
                status, fields, body = await http(port_of(proxy, "in"), headers={"x-user": "john"})
                assert (status, fields.get("x-carrier-fallback"), body) == (200, "refused", b"shadow")
            await wait_until(lambda: not proxy.listeners["in"].live)


# -- TLS


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def secured(ca, tmp_path):
    """(tls block, client context, server context) for app.test."""
    made = ca.issue_cert("app.test")
    (tmp_path / "c.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    made.configure_cert(server)
    ca.configure_trust(client)
    return {"certificate": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}, client, server


@contextlib.asynccontextmanager
async def tls_server(context, serve):
    async def accepted(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def say_first_line(reader, writer):
    line = await reader.readline()
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nSHADE" if b"HTTP/1.1" in line else b"shadow heard " + line
    )


async def exchange(port, context, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="app.test")
    alpn = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return alpn, answer


async def test_a_tls_port_without_certificates_is_the_shadows_own_affair(secured):
    _, client, server = secured
    async with tls_server(server, say_first_line) as shadow, before(shadow) as port:
        assert (await exchange(port, client, b"raw\n"))[1] == b"shadow heard raw\n"


async def test_a_tls_port_with_certificates_routes_the_http_inside_and_relays_the_rest(secured):
    tls, client, server = secured
    server.set_alpn_protocols(["h2", "http/1.1"])
    async with tls_server(server, say_first_line) as shadow, tcp_server(named(b"laptop")) as laptop:
        clusters = [to("shadow", shadow, tls={"verify": False, "sni": "app.test"}), to("john", laptop.port)]
        ours = {**auto("shadow", john(), tls=tls), "options": {"protocols": ["h1"]}}
        async with running(config(clusters=clusters, listeners=[ours])) as proxy:
            port = port_of(proxy, "in")
            request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-user: %b\r\n\r\n"
            assert (await exchange(port, client, request % b"john"))[1].endswith(b"laptop")
            assert (await exchange(port, client, request % b"jane"))[1].endswith(b"SHADE")
            assert (await exchange(port, client, b"raw\n"))[1] == b"shadow heard raw\n"
            client.set_alpn_protocols(["h2"])  # gRPC: it would not speak HTTP/1.1 with us
            assert await exchange(port, client, b"PRI * HTTP/2.0\n") == ("h2", b"shadow heard PRI * HTTP/2.0\n")


async def test_a_handshake_that_never_ends_or_is_none_costs_nothing(secured):
    tls, _, _ = secured
    async with tcp_server() as shadow, before(shadow.port, tls=tls) as port, tcp(port) as client:
        client.send(b"\x16\x03\x01\x00\x05hello")  # TLS by its first bytes, and no hello
        heard = await shadow.peer()
        assert await heard.read(10) == b"\x16\x03\x01\x00\x05hello"
        heard.close()


async def test_a_connection_that_has_not_said_what_it_is_outlives_its_listener_for_one_request():
    async with tcp_server(named(b"shadow")) as shadow:
        conf = config(clusters=[to("shadow", shadow.port)], listeners=[auto("shadow")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"GET / HT")
            await wait_until(lambda: proxy.listeners["in"].connections)
            await proxy.apply(without(conf, "listener", "in", recursive=True))
            client.send(b"TP/1.1\r\nhost: x\r\n\r\n")
            answer = await client.read_all()
            assert answer.endswith(b"shadow")
            assert b"connection: close" in answer


# -- the first line, and what becomes of a connection before it ends


def limited(shadow, *rules, **options):
    """`auto` with options."""
    return {**auto(shadow, *rules), "options": options}


@contextlib.asynccontextmanager
async def standing(*rules, down=False, options=None, serve=None):
    """A port with a shadow that counts its connections (or is not there) and john's laptop: (port, shadow, proxy)."""
    async with tcp_server(serve) as shadow, tcp_server(named(b"laptop")) as laptop:
        clusters = [to("shadow", free_port() if down else shadow.port), to("john", laptop.port)]
        conf = config(clusters=clusters, listeners=[limited("shadow", *rules, **(options or {}))])
        async with running(conf) as proxy:
            yield port_of(proxy, "in"), shadow, proxy


async def test_a_client_that_says_half_a_method_and_stalls_connects_nobody_and_is_answered_408_in_time():
    async with standing(options={"header_timeout": 1}) as (port, shadow, proxy), tcp(port) as client:
        client.send(b"GET")
        await asyncio.sleep(0.7)
        assert not shadow.peers
        assert proxy.connections() == 1 and not proxy.listeners["in"].live
        assert (await client.read_all()).startswith(b"HTTP/1.1 408 ")
        assert not shadow.peers


@pytest.mark.parametrize("said", [b"", b"PIN", b"get /hal", b"\r\n\r\n"])
async def test_what_cannot_be_told_is_connected_once_and_never_again(said):
    async with standing() as (port, shadow, proxy), tcp(port) as client:
        client.send(said)
        peer = await shadow.peer()
        if said:
            assert await peer.read(len(said)) == said
        await asyncio.sleep(0.7)
        assert len(shadow.peers) == 1 and proxy.connections() == 1


async def test_a_client_that_waits_for_an_answer_to_half_a_line_gets_it():
    async def pong(peer):
        assert await peer.read(4) == b"PING"
        peer.send(b"PONG")
        await peer.reader.read()

    async with standing(serve=pong) as (port, _, _), tcp(port) as client:
        client.send(b"PING")
        assert await client.read(4) == b"PONG"


@pytest.mark.parametrize("said", [b"", b"GE", b"get"])
async def test_connections_of_which_nobody_knows_what_they_are_make_room_when_the_port_is_full(said):
    request = b"GET / HTTP/1.1\r\nhost: x\r\nx-user: john\r\nconnection: close\r\n\r\n"
    async with standing(john(), options={"max_connections": 20}) as (port, _, proxy), contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            client = await stack.enter_async_context(tcp(port))
            client.send(said)
        await wait_until(lambda: proxy.connections() == 20)
        for _ in range(2):
            assert (await ask(port, request)).endswith(b"laptop")
            await asyncio.sleep(0.4)  # by now the silent ones have been connected
        assert proxy.connections() <= 20


async def test_a_late_request_is_served_by_the_laptop_although_the_shadow_is_down():
    async with standing(john(), down=True) as (port, _, proxy), tcp(port) as client:
        await wait_until(lambda: proxy.listeners["in"].failed, "for the shadow to be asked in vain")
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-user: john\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await client.read(6) == b"laptop"


async def test_what_is_no_http_after_all_is_closed_when_the_shadow_is_down():
    async with standing(down=True) as (port, _, _), tcp(port) as client:
        client.send(b"PIN")
        await asyncio.sleep(0.5)
        client.send(b"G\r\n")
        with pytest.raises(ConnectionError):
            await client.read_all()


@pytest.mark.parametrize(
    "line",
    [b"get / HTTP/1.1", b"A" * 60 + b" / HTTP/1.1", "GET /gr\u00fc\u00df HTTP/1.1".encode(), b"GET /two words HTTP/1.1", b"\x00 HTTP/1.1"],
)
@pytest.mark.parametrize("late", [False, True])
async def test_a_request_line_that_is_odd_is_routed_or_refused_and_never_hands_its_connection_on_unread(line, late):
    async with standing(john()) as (port, shadow, _), tcp(port) as client:
        if late:
            client.send(line[:1])
            await asyncio.sleep(0.5)
            client.send(line[1:] + b"\r\nhost: x\r\nx-user: john\r\n\r\n")
        else:
            client.send(line + b"\r\nhost: x\r\nx-user: john\r\n\r\n")
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-user: john\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 ")
        for peer in shadow.peers:
            with contextlib.suppress(ConnectionError, TimeoutError):
                assert b"john" not in await asyncio.wait_for(peer.reader.read(65536), 0.2)


async def test_a_first_line_that_came_late_and_is_http_is_routed_with_all_that_follows():
    async with standing(john()) as (port, shadow, _), tcp(port) as client:
        client.send(b"\r\n")
        peer = await shadow.peer()
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-user: john\r\n\r\n")
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await client.read(6) == b"laptop"
        with contextlib.suppress(ConnectionError):
            assert await peer.reader.read() in (b"", b"\r\n")


async def test_empty_lines_without_end_inside_tls_are_not_kept(secured):
    tls, client, _ = secured
    async with tcp_server() as shadow:
        conf = config(clusters=[to("shadow", shadow.port)], listeners=[auto("shadow", tls=tls)])
        async with running(conf) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"), ssl=client, server_hostname="app.test")
            for _ in range(64):
                writer.write(b"\r\n" * 8192)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(writer.drain(), 0.02)
            await wait_until(lambda: proxy.listeners["in"].live, "for a session of bytes, which has back-pressure")
            (connection,) = proxy.listeners["in"].connections
            assert connection.undecided is None
            writer.transport.abort()


async def test_sessions_of_bytes_inside_tls_have_the_limits_of_others(secured):
    tls, client, _ = secured
    async with tcp_server() as shadow:
        listener = {**auto("shadow", tls=tls), "options": {"raw_idle_timeout": 1}}
        async with running(config(clusters=[to("shadow", shadow.port)], listeners=[listener])) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"), ssl=client, server_hostname="app.test")
            writer.write(b"raw\n")
            await wait_until(lambda: proxy.listeners["in"].live)
            await wait_until(lambda: not proxy.connections(), "for the limit")
            writer.transport.abort()


class HalfCloser(asyncio.Protocol):
    """A client that says something and its close_notify, and reads on."""

    def __init__(self, said):
        self.said = said
        self.heard = b""
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.said)
        transport.write_eof()

    def data_received(self, data):
        self.heard += data

    def eof_received(self):
        return False

    def connection_lost(self, exc):
        if not self.over.done():
            self.over.set_result(exc)


async def half_closed(port, said, tls):
    """What a client hears that half-closes inside TLS."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    client = ClientTls({"ca": tls["certificate"], "verify": False, "sni": "app.test"})
    protocol = await secure_upstream(asyncio.get_running_loop(), sock, client, "app.test", "here", HalfCloser(said))
    assert await asyncio.wait_for(protocol.over, 5) is None
    return protocol.heard


@pytest.mark.parametrize(
    ("protocol", "said"), [("auto", b"raw\n"), *((protocol, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") for protocol in ("auto", "HTTP"))]
)
async def test_a_client_that_ends_its_half_inside_tls_is_answered(secured, protocol, said):
    tls, _, _ = secured

    async def answer(peer):
        if said[:3] == b"GET":
            await peer.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.3)
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        else:
            heard = await peer.reader.read()
            await asyncio.sleep(0.3)
            peer.send(b"heard " + heard)

    async with tcp_server(answer) as shadow:
        conf = config(clusters=[to("shadow", shadow.port)], listeners=[auto("shadow", protocol=protocol, tls=tls)])
        async with running(conf) as proxy:
            heard = await half_closed(port_of(proxy, "in"), said, tls)
            assert heard.endswith(b"ok" if said[:3] == b"GET" else b"heard raw\n")
            await wait_until(lambda: not proxy.connections())


@pytest.mark.parametrize("protocol", ["auto", "HTTP"])
async def test_what_a_client_pipelines_behind_its_first_request_waits_where_it_is(protocol):
    """uvloop reads behind `connection_made` although it was told not to: 512 KiB of it were read, and refused."""

    async def slow(peer):
        for length in (0, 3_000_000, 0):
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.reader.readexactly(length)
            await asyncio.sleep(0.05)
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with tcp_server(slow) as up:
        conf = config(clusters=[cluster("up", up.port, protocol="HTTP")], listeners=[auto("up", protocol=protocol)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
            client.send(get + b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000 + get)
            for _ in range(3):
                assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await client.reader.readexactly(2) == b"ok"
