"""TLS on listeners and clusters, on real sockets: names and certificates, files that change, half-closes, SNI without decrypting."""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest
import trustme

from carrier.errors import ConfigError, Error
from carrier.hops.certificates import ClientTls, ServerTls, check_client, check_server
from carrier.hops.tls import Channel, TlsUpstream, decrypted, welcome
from carrier.wire.hello import parse_hello
from tests.support import cluster, config, echo, listener, looked, port_of, running, saying, tcp_server, wait_until


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def files(ca, tmp_path):
    """Writes certificates: `files("name", "example.org")` gives {certificate, key}."""
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def write(name, *hosts, authority=ca):
        made = authority.issue_cert(*hosts)
        (tmp_path / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        return {"certificate": str(tmp_path / f"{name}.pem"), "key": str(tmp_path / f"{name}.key")}

    write.ca = str(tmp_path / "ca.pem")
    return write


def client(files, certificate=None):
    context = ssl.create_default_context(cafile=files.ca)
    if certificate:
        context.load_cert_chain(certificate["certificate"], certificate["key"])
    return context


@contextlib.asynccontextmanager
async def connected(port, context, name):
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name), 5)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def names(writer):
    return [value for kind, value in writer.get_extra_info("peercert")["subjectAltName"]]


def http_answer(text):
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(text), text)


async def get(port, context, name):
    async with connected(port, context, name) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return await asyncio.wait_for(reader.read(), 5)


@contextlib.asynccontextmanager
async def tls_server(files, *hosts):
    """An HTTP server behind TLS that answers with the name it was asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made = files("server", *hosts)
    context.load_cert_chain(made["certificate"], made["key"])
    context.sni_callback = lambda tls, name, _: setattr(tls, "asked", name)

    async def serve(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            asked = getattr(writer.get_extra_info("ssl_object"), "asked", None)
            writer.write(http_answer(str(asked).encode()))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# -- listeners


async def test_an_http_listener_terminates_tls_and_says_so_upstream(files):
    heads = []

    async def serve(peer):
        heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
        peer.send(http_answer(b"hello"))

    async with tcp_server(serve) as backend:
        conf = config(
            clusters=[cluster("web", backend.port, protocol="HTTP")],
            listeners=[listener("in", "web", protocol="HTTP", spec={"protocol": "HTTP", "port": 0, "tls": files("a", "a.test")})],
        )
        async with running(conf) as proxy:
            answer = await get(port_of(proxy, "in"), client(files), "a.test")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-forwarded-proto: https" in heads[0]


async def test_the_certificate_follows_the_name_that_is_asked_for(files):
    tls = [files("a", "a.test"), {**files("b", "b.test"), "sni": ["b.test"]}, {**files("w", "*.wild.test"), "sni": ["*.wild.test"]}]
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[spec("TCP", tls)])
    async with running(conf) as proxy:
        for name, expected in (("a.test", "a.test"), ("b.test", "b.test"), ("x.wild.test", "*.wild.test")):
            async with connected(port_of(proxy, "in"), client(files), name) as (_, writer):
                assert names(writer) == [expected]


def spec(protocol, tls, destination="echo", **more):
    return {
        "name": "in",
        "spec": {"protocol": protocol, "port": 0, "address": "127.0.0.1", "tls": tls},
        "rules": [{"action": {"route": {"destination": destination}}}],
        **more,
    }


async def test_changed_files_are_taken_up_and_bad_ones_leave_the_old_certificate(files):
    tls = files("a", "old.test")
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[spec("TCP", tls)])
    async with running(conf) as proxy:
        port = port_of(proxy, "in")
        running_listener = proxy.listeners["in"]
        async with connected(port, client(files), "old.test") as (reader, writer):
            files("a", "new.test")
            running_listener.tick(asyncio.get_running_loop().time())
            await looked(proxy)
            async with connected(port, client(files), "new.test") as (_, other):
                assert names(other) == ["new.test"]
            with open(tls["certificate"], "w") as file:
                file.write("nonsense")
            for _ in range(3):
                running_listener.tick(asyncio.get_running_loop().time())
                await looked(proxy)
            assert running_listener.certificates.failures == 1
            assert tls["certificate"] in running_listener.certificates.trouble
            async with connected(port, client(files), "new.test") as (_, other):
                assert names(other) == ["new.test"]
            writer.write(b"still here")
            assert await asyncio.wait_for(reader.readexactly(10), 5) == b"still here"


async def test_a_client_without_a_good_certificate_is_not_let_in(files):
    stranger = files("stranger", "client@stranger.test", authority=trustme.CA())
    friend = files("friend", "client@friend.test")
    tls = {**files("a", "a.test"), "ca": files.ca, "client_auth": "required"}
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[spec("TCP", tls)])
    async with running(conf) as proxy:
        port = port_of(proxy, "in")
        async with connected(port, client(files, friend), "a.test") as (reader, writer):
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
        for certificate in (None, stranger):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                async with connected(port, client(files, certificate), "a.test") as (reader, writer):
                    writer.write(b"hello")
                    await asyncio.wait_for(reader.readexactly(5), 5)
        assert proxy.listeners["in"].limited == {"handshake": 2}


async def test_much_data_passes_both_ways_through_tls_on_both_sides_and_a_half_close_is_one(files):
    """TCP over TLS in, TLS out, and the destination answers only after the end of what it was sent."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made = files("server", "app.test")
    context.load_cert_chain(made["certificate"], made["key"])
    outer = [
        {
            "name": "in",
            "spec": {"protocol": "TCP", "port": 0, "address": "127.0.0.1"},
            "rules": [{"action": {"route": {"destination": "secured"}}}],
        },
        {**spec("TCP", files("a", "a.test"), "plain"), "name": "tls"},
    ]

    async def count(peer):
        data = await peer.reader.read()
        peer.send(b"%d" % len(data))
        peer.end()

    async with tcp_server(count) as backend:
        first = config(clusters=[cluster("plain", backend.port)], listeners=[outer[1]])
        async with running(first) as inner:
            upstream = {
                "name": "secured",
                "spec": {"protocol": "TCP", "port": port_of(inner, "tls"), "tls": {"sni": "a.test", "ca": files.ca}},
                "endpoints": [{"name": "e", "spec": {"address": "127.0.0.1"}}],
            }
            async with running(config(clusters=[upstream], listeners=[outer[0]])) as proxy:
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
                writer.write(os.urandom(3_000_000))
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(), 10) == b"3000000"
                writer.close()


async def test_a_name_routes_without_decrypting(files):
    async with tls_server(files, "one.test", "two.test") as port, tcp_server(saying(b"not TLS")) as other:
        rules = [{"match": {"matchSni": {"sni": "one.test"}}, "action": {"route": {"destination": "one"}}}]
        rules += [{"action": {"route": {"destination": "rest"}}}]
        conf = config(
            clusters=[cluster("one", port), cluster("rest", other.port)], listeners=[{**spec("TCP", {"passthrough": True}), "rules": rules}]
        )
        async with running(conf) as proxy:
            answer = await get(port_of(proxy, "in"), client(files), "one.test")
            assert answer.endswith(b"\r\n\r\none.test")
            with pytest.raises((ssl.SSLError, OSError)):
                await get(port_of(proxy, "in"), client(files), "two.test")
            await wait_until(lambda: not proxy.listeners["in"].live)


# -- clusters


@pytest.mark.parametrize(
    ("tls", "status"),
    [
        ({"sni": "app.test", "ca": "CA"}, b"200"),
        ({"ca": "CA"}, b"503"),  # 127.0.0.1 is not in the certificate
        ({"sni": "app.test"}, b"503"),  # nobody has heard of that authority
        ({"sni": "app.test", "verify": False}, b"200"),
        (True, b"503"),
    ],
)
async def test_a_cluster_speaks_tls_and_checks_whom_it_speaks_with(files, tls, status):
    tls = {**tls, "ca": files.ca} if isinstance(tls, dict) and "ca" in tls else tls
    async with tls_server(files, "app.test") as port:
        upstream = {
            "name": "web",
            "spec": {"protocol": "HTTP", "port": port, "tls": tls},
            "endpoints": [{"name": "e", "spec": {"address": "127.0.0.1"}}],
        }
        conf = config(clusters=[upstream], listeners=[listener("in", "web", protocol="HTTP")])
        async with running(conf) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
    assert answer.split(b" ")[1] == status
    if status == b"200":
        assert answer.endswith(b"app.test")
    else:
        assert b"certificate" in answer


# -- what is refused


def test_every_bad_file_is_named(files, tmp_path):
    good = files("a", "a.test")
    other = files("b", "b.test")
    with pytest.raises(ConfigError) as caught:
        ServerTls([{"certificate": str(tmp_path / "no.pem"), "key": str(tmp_path / "no.key")}, {**good, "key": other["key"]}])
    text = caught.value.detail
    assert "no.pem" in text
    assert "no.key" in text
    assert "no certificate and its key" in text
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({}, "needs 'certificate'"),
        ("yes", "expected an object"),
        ({"certificate": "a", "key": "b", "keey": "c"}, "unknown field 'keey'"),
        ({"certificate": 1, "key": "b"}, "PEM"),
        ({"certificate": "a", "key": "b", "client_auth": True}, "needs 'ca'"),
        ({"certificate": "a", "key": "b", "ca": "c", "client_auth": "maybe"}, "client_auth"),
        ({"certificate": "a", "key": "b", "sni": [1]}, "list of names"),
        ({"passthrough": True, "key": "b"}, "not decrypted"),
    ],
)
def test_a_listener_block_that_makes_no_sense_is_refused(raw, word):
    assert word in str(check_server(raw, "$")[0])


@pytest.mark.parametrize(("raw", "word"), [([], "object"), ({"verify": "no"}, "verify"), ({"key": "a"}, "together"), ({"sni": 1}, "name")])
def test_a_cluster_block_that_makes_no_sense_is_refused(raw, word):
    assert any(word in str(problem) for problem in check_client(raw, "$"))


def test_an_encrypted_key_is_refused_and_asks_nobody(files, tmp_path):
    from cryptography.hazmat.primitives import serialization

    made = files("a", "a.test")
    with open(made["key"], "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.BestAvailableEncryption(b"secret")
    )
    with open(made["key"], "wb") as file:
        file.write(encrypted)
    with pytest.raises(ConfigError):
        ServerTls(made)


def test_verification_is_on_unless_it_says_otherwise():
    assert ClientTls(True).context.verify_mode == ssl.CERT_REQUIRED
    assert ClientTls({"verify": False}).context.verify_mode == ssl.CERT_NONE


# -- what OpenSSL reads from and writes to


@pytest.fixture
def both(files):
    """Makes a server's channel and a client's, hands shaken, all in one thread."""
    context = ServerTls(files("one", "one.test")).entries[0]

    def made():
        server, client_ = Channel(context, True), Channel(client(files), False, "one.test")
        sent = b""
        for end, done in ((client_, False), (server, False), (client_, True), (server, True)):
            assert end.greet(sent) is done
            sent, end.owed = end.owed, b""
        client_.held = sent  # tickets
        return server, client_

    return made


def empty(*channels):
    return not any(channel.incoming.pending or channel.outgoing.pending for channel in channels)


def test_channels_share_what_openssl_reads_and_writes_and_never_see_each_others(both):
    pairs = [both() for _ in range(3)]
    assert len({id(channel.incoming) for pair in pairs for channel in pair}) == 1
    sealed = [[client_.seal(b"%d of %d" % (i, number)) for i in range(3)] for number, (_, client_) in enumerate(pairs)]
    for i in range(3):  # in pieces, one after the other
        for number, (server, _) in enumerate(pairs):
            records = sealed[number][i]
            assert server.open(records[:7]) == b"" and empty(server)
            for other, (server2, client2) in enumerate(pairs):
                if other != number:
                    assert client2.open(server2.seal(b"meanwhile")) == b"meanwhile"
            assert server.open(records[7:]) == b"%d of %d" % (i, number)
            assert empty(server) and not server.waits


def test_what_comes_at_once_is_said_at_once_and_then_how_it_ended(both):
    server, client_ = both()
    body = os.urandom(100_000)
    records = client_.seal(body)
    client_.goodbye()
    assert server.open(records + client_.owed + b"what comes behind a goodbye") == body
    assert server.over and server.waits and server.failure is None and empty(server)
    assert server.open(b"") == b"" and server.over


def test_what_is_no_record_is_a_failure_behind_what_was_said_and_nobody_elses(both):
    (server, client_), (server2, client2) = both(), both()
    assert server.open(client_.seal(b"good") + b"\x17\x03\x03\x00\x20" + b"x" * 32 + b"more") == b"good"
    assert isinstance(server.failure, ssl.SSLError) and server.owed and empty(server)  # owed: the alert
    assert server2.open(client2.seal(b"well")) == b"well" and server2.failure is None
    with pytest.raises(ssl.SSLError):
        server.seal(b"too late")
    assert empty(server)


def test_what_comes_with_the_end_of_the_handshake_waits(files):
    context = ServerTls(files("one", "one.test")).entries[0]
    server, client_ = Channel(context, True), Channel(client(files), False, "one.test")
    client_.greet(b"")
    assert not server.greet(client_.owed)
    client_.owed = b""
    assert client_.greet(server.owed)
    said = client_.seal(b"hello")
    server.owed = b""
    assert server.greet(said[:-3])
    assert server.waits and empty(server)
    assert server.open(said[-3:]) == b"hello" and not server.waits


def test_tickets_wait_for_what_is_said_next(files):
    context = ServerTls(files("one", "one.test")).entries[0]
    server, client_ = Channel(context, True), Channel(client(files), False, "one.test")
    client_.greet(b"")
    server.greet(client_.owed)
    client_.owed = b""
    client_.greet(server.owed)
    server.owed = b""
    assert server.greet(client_.owed)
    assert server.later and not server.owed
    assert client_.open(server.seal(b"hello")) == b"hello"
    assert client_.tls.session.has_ticket and not server.later


# -- handshakes


class Peer:
    """The client of a handshake over a pair of sockets, in one thread with the server's."""

    def __init__(self, files, name):
        self.ours, self.sock = socket.socketpair()
        self.ours.setblocking(False)
        self.sock.setblocking(False)
        self.channel = Channel(client(files), False, name)
        self.channel.greet(b"")

    async def talk(self, size):
        """Send what is owed, so many bytes at once, and read on until hands are shaken."""
        loop = asyncio.get_running_loop()
        channel, shaken = self.channel, False
        while True:
            owed, channel.owed = channel.owed, b""
            for at in range(0, len(owed), size):
                await loop.sock_sendall(self.sock, owed[at : at + size])
                await asyncio.sleep(0)
            if shaken:
                return
            shaken = channel.greet(await loop.sock_recv(self.sock, 65536))

    def close(self):
        self.ours.close()
        self.sock.close()


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_hands_are_shaken_by_the_entry_that_the_hello_names_however_it_is_cut(files, size):
    tls = ServerTls([files("a", "a.test"), {**files("b", "b.test"), "sni": ["b.test"]}])
    for name in ("a.test", "b.test"):
        with contextlib.closing(Peer(files, name)) as peer:
            channel, _ = await asyncio.wait_for(asyncio.gather(welcome(asyncio.get_running_loop(), peer.ours, tls), peer.talk(size)), 10)
            assert [value for _, value in peer.channel.tls.getpeercert()["subjectAltName"]] == [name]
            assert channel.open(peer.channel.seal(b"hello")) == b"hello"


async def test_what_the_kernel_does_not_take_of_a_handshake_is_sent_later(files):
    loop = asyncio.get_running_loop()
    with contextlib.closing(Peer(files, "a.test")) as peer:
        full = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                full += peer.ours.send(bytes(4096))
        shaking = asyncio.ensure_future(welcome(loop, peer.ours, ServerTls(files("a", "a.test"))))
        await loop.sock_sendall(peer.sock, peer.channel.owed)
        peer.channel.owed = b""
        await asyncio.sleep(0.05)
        assert not shaking.done()
        while full:
            full -= len(await loop.sock_recv(peer.sock, full))
        await asyncio.wait_for(peer.talk(100_000), 10)
        assert (await asyncio.wait_for(shaking, 10)).tls.version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("said", "kind"), [(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "tls"), (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "tls"), (b"", "closed")]
)
async def test_what_is_no_handshake_ends_with_the_reason_and_nobody_reads(files, said, kind):
    loop = asyncio.get_running_loop()
    with contextlib.closing(Peer(files, "a.test")) as peer:
        peer.sock.send(said)
        peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(Error) as caught:
            await asyncio.wait_for(welcome(loop, peer.ours, ServerTls(files("a", "a.test"))), 5)
        assert (caught.value.kind, caught.value.retry) == (kind, "yes")
        assert not loop.remove_reader(peer.ours)


@pytest.mark.parametrize("entries", [1, 2])
@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /x HTTP/1.1\r\n", b"HELO x\r\n"])
async def test_who_asks_without_tls_is_told_to_ask_with_it(files, said, entries):
    tls = ServerTls([files("a", "a.test"), {**files("b", "b.test"), "sni": ["b.test"]}][:entries])
    with contextlib.closing(Peer(files, "a.test")) as peer:
        peer.sock.send(said)
        with pytest.raises(Error):
            await asyncio.wait_for(welcome(asyncio.get_running_loop(), peer.ours, tls), 5)
        peer.ours.close()
        heard = b""
        while data := await asyncio.get_running_loop().sock_recv(peer.sock, 4096):
            heard += data
    assert (heard.startswith(b"HTTP/1.1 400 ") and b"https://" in heard) is not said.startswith(b"HELO"), heard


async def test_a_handshake_that_does_not_end_is_given_up(files, monkeypatch):
    monkeypatch.setattr("carrier.hops.tls.HANDSHAKE", 0.05)
    with contextlib.closing(Peer(files, "a.test")) as peer, pytest.raises(Error, match="no TLS handshake within"):
        await asyncio.wait_for(welcome(asyncio.get_running_loop(), peer.ours, ServerTls(files("a", "a.test"))), 5)


# -- ClientHello


def hello(name, *alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_a_hello_is_read_however_it_is_cut():
    data = hello("Some.Name.test", "h2", "http/1.1")
    for i in range(len(data)):
        assert parse_hello(data[:i]) is None
    assert parse_hello(data + b"more") == ("some.name.test", ("h2", "http/1.1"))


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x16\x02\x00", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"])
def test_what_is_no_hello_is_said_to_be_none(data):
    with pytest.raises(Error):
        parse_hello(data)


def test_no_damaged_hello_does_more_than_ask_for_nothing():
    data = bytearray(hello("name.test", "h2"))
    for at in range(5, len(data)):
        for value in (0, 255, data[at] ^ 1):
            damaged = bytes(data[:at]) + bytes([value]) + bytes(data[at + 1 :])
            with contextlib.suppress(Error):
                assert parse_hello(damaged) is not None or 6 <= at <= 8  # a greater length: the rest may be in other records


async def test_a_client_that_never_says_goodbye_keeps_no_descriptor_when_its_place_is_needed(files):
    context = client(files)

    def shake_hands(port):
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="a.test")

    conf = config(clusters=[echo()], listeners=[listener("in", protocol="HTTP", spec={"tls": files("a", "a.test")})])
    async with running(conf) as proxy:
        connections = proxy.listeners["in"].connections
        with await asyncio.to_thread(shake_hands, port_of(proxy, "in")):
            await wait_until(lambda: connections)
            descriptor = next(iter(connections)).transport.get_extra_info("socket").fileno()
            inode = os.fstat(descriptor).st_ino

            def is_open():
                try:
                    return os.fstat(descriptor).st_ino == inode
                except OSError:
                    return False

            assert is_open()
            proxy.make_room(1)
            await wait_until(lambda: not is_open(), "for the descriptor")


class Clear:
    """A channel that says everything as it is."""

    owed, waits = b"", False

    def seal(self, data: bytes) -> bytes:
        return bytes(data)

    def goodbye(self) -> None: ...


@pytest.mark.parametrize("reads", [True, False])
async def test_what_was_said_into_tls_before_the_end_waits_for_a_peer_that_takes_it_slowly(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carrier.hops.tls.LINGER", 0.02)
    monkeypatch.setattr("carrier.hops.tls.GRACE", 0.1)
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    outer = TlsUpstream(loop, ours, "upstream", Clear())  # type: ignore[arg-type]
    plain = decrypted(outer)
    await loop.sock_sendall(plain, b"x" * 60_000)
    plain.close()
    found = 0
    while reads and (data := await loop.sock_recv(theirs, 3000)):
        found += len(data)
        await asyncio.sleep(0.03)
    await wait_until(lambda: outer.closed)
    assert found == (60_000 if reads else 0)
    theirs.close()
