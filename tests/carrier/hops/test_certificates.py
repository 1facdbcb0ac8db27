"""Which entry of a `tls` block serves a handshake, what it lets in, and what becomes of it when its files change: on real sockets."""

import asyncio
import ssl

import pytest
import trustme

from carrier.core.env import Env
from carrier.hops.certificates import ServerTls, check_client, check_server
from clusters.auto import AutoCluster
from clusters.http.cluster import HttpCluster
from listeners.auto import AutoListener
from listeners.http.listener import HttpListener
from listeners.tcp import TcpListener
from tests.pki import Pki, echoes, pki, secure, shake, status
from tests.support import cluster, config, echo, listener, looked, port_of, running, saying, tcp_server, wait_until

__all__ = ["pki"]
PROTOCOLS = ("TCP", "HTTP", "auto", "WebSocket", "JSONSocket", "framed")


def guarded(pki: Pki, mode="required"):
    """An entry for everybody, and one whose clients must show a certificate."""
    return [pki("open", "open.test"), {**pki("secret", "secret.test"), "sni": ["secret.test"], "ca": pki.ca, "client_auth": mode}]


def block(protocol, tls, **fields):
    return listener("in", protocol=protocol, spec={"tls": tls}, **fields)


# -- who is let in


async def test_the_entry_of_the_name_demands_its_own_client_certificate_on_tcp(pki):
    stranger, friend = pki("stranger", "c@x.test", authority=trustme.CA()), pki("friend", "c@x.test")
    async with running(config(clusters=[echo()], listeners=[block("TCP", guarded(pki))])) as proxy:
        port = port_of(proxy, "in")
        assert await echoes(port, pki.client(), "open.test")
        assert await echoes(port, pki.client(friend), "secret.test")
        assert not await echoes(port, pki.client(), "secret.test")
        assert not await echoes(port, pki.client(stranger), "secret.test")


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
async def test_the_entry_of_the_name_demands_its_own_client_certificate_of_requests(pki, protocol):
    friend = pki("friend", "c@x.test")
    async with running(config(clusters=[echo()], listeners=[block(protocol, guarded(pki))])) as proxy:
        port = port_of(proxy, "in")
        assert await status(port, pki.client(), "open.test", "open.test") == 200
        assert await status(port, pki.client(friend), "secret.test", "secret.test") == 200
        assert await status(port, pki.client(), "secret.test", "secret.test") == 0


async def test_an_entry_that_demands_nothing_lets_everybody_in_behind_one_that_does(pki):
    tls = [{**pki("secret", "secret.test"), "ca": pki.ca}, {**pki("open", "open.test"), "sni": ["open.test"]}]
    async with running(config(clusters=[echo()], listeners=[block("TCP", tls)])) as proxy:
        assert await echoes(port_of(proxy, "in"), pki.client(), "open.test")
        assert not await echoes(port_of(proxy, "in"), pki.client(), "secret.test")


async def test_each_entry_believes_its_own_authority(pki):
    ours, theirs = trustme.CA(), trustme.CA()
    tls = [
        {**pki("a", "a.test"), "ca": pki.trust("ours", ours), "client_auth": "required"},
        {**pki("b", "b.test"), "sni": "b.test", "ca": pki.trust("theirs", theirs), "client_auth": "required"},
    ]
    alice, bob = pki("alice", "c@a.test", authority=ours), pki("bob", "c@b.test", authority=theirs)
    async with running(config(clusters=[echo()], listeners=[block("TCP", tls)])) as proxy:
        found = {
            (who, to): await echoes(port_of(proxy, "in"), pki.client(cert), to)
            for who, cert in (("alice", alice), ("bob", bob))
            for to in ("a.test", "b.test")
        }
    assert found == {("alice", "a.test"): True, ("alice", "b.test"): False, ("bob", "a.test"): False, ("bob", "b.test"): True}


@pytest.mark.parametrize("protocol", ["HTTP", "auto", "WebSocket"])
async def test_a_host_that_demands_a_certificate_is_not_reached_by_another_name(pki, protocol):
    friend = pki("friend", "c@x.test")
    async with running(config(clusters=[echo()], listeners=[block(protocol, guarded(pki))])) as proxy:
        port = port_of(proxy, "in")
        found = {host: await upgrade(port, pki.client(), "open.test", host) for host in ("open.test", "secret.test", "SECRET.test.:443")}
        assert found["secret.test"] == found["SECRET.test.:443"] == 421
        assert found["open.test"] < 400
        assert await upgrade(port, pki.client(friend), "secret.test", "secret.test") < 400
        assert await upgrade(port, pki.client(friend), "secret.test", "open.test") < 400  # that one demands nothing


async def upgrade(port, context, name, host):
    """The status of a request that any of these protocols understands."""
    fields = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: %b\r\n" % (b"A" * 22 + b"==")
    async with secure(port, context, name) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (host.encode(), fields))
        return int((await asyncio.wait_for(reader.readline(), 5)).split()[1])


async def test_an_optional_certificate_that_was_not_asked_for_is_not_taken_as_not_shown(pki):
    async with running(config(clusters=[echo()], listeners=[block("HTTP", guarded(pki, "optional"))])) as proxy:
        assert await status(port_of(proxy, "in"), pki.client(), "secret.test", "secret.test") == 200
        assert await status(port_of(proxy, "in"), pki.client(), "open.test", "secret.test") == 421


async def test_the_first_request_and_those_after_it_are_held_to_the_names_they_are_for(pki):
    """Also a head that the memo knows from a connection that was allowed to send it."""
    friend = pki("friend", "c@x.test")
    async with running(config(clusters=[echo()], listeners=[block("HTTP", guarded(pki))])) as proxy:
        port = port_of(proxy, "in")
        for _ in range(3):
            assert await status(port, pki.client(friend), "secret.test", "secret.test") == 200
        async with secure(port, pki.client(), "open.test") as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: open.test\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 200")
            writer.write(b"GET / HTTP/1.1\r\nhost: secret.test\r\n\r\n")
            assert b"421 Misdirected Request" in await asyncio.wait_for(reader.read(), 5)


# -- sessions that are resumed


async def test_a_session_is_resumed_for_its_own_name_only(pki):
    friend = pki("friend", "c@x.test")
    other = {**pki("other", "other.test"), "sni": ["other.test"], "ca": pki.ca, "client_auth": "required"}
    async with running(config(clusters=[echo()], listeners=[block("HTTP", [*guarded(pki), other])])) as proxy:
        port = port_of(proxy, "in")
        context = pki.client(friend)
        _, session = await asyncio.to_thread(shake, port, context, "secret.test")
        assert (await asyncio.to_thread(shake, port, context, "secret.test", session))[0]
        for name in ("open.test", "other.test"):
            assert not (await asyncio.to_thread(shake, port, context, name, session))[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_lives_through_a_change_of_the_authority(pki, version):
    old = trustme.CA()
    friend = pki("friend", "c@x.test", authority=old)
    tls = {**pki("a", "a.test"), "ca": pki.trust("clients", old), "client_auth": "required"}
    async with running(config(clusters=[echo()], listeners=[block("HTTP", tls)])) as proxy:
        port = port_of(proxy, "in")
        context = pki.client(friend)
        context.maximum_version = version
        _, session = await asyncio.to_thread(shake, port, context, "a.test")
        assert (await asyncio.to_thread(shake, port, context, "a.test", session))[0]
        pki.trust("clients", trustme.CA())
        proxy.listeners["in"].tick(asyncio.get_running_loop().time())
        await looked(proxy)
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.to_thread(shake, port, context, "a.test", session)


async def test_an_entry_that_is_as_it_was_keeps_its_context_when_others_and_the_listener_change(pki):
    before = ServerTls([pki("a", "a.test"), {**pki("b", "b.test"), "sni": "b.test"}])
    kept, changed = before.entries
    pki("b", "b.test")
    assert before.refresh()
    assert before.entries[0] is kept
    assert before.entries[1] is not changed
    after = ServerTls([{**before.raw[0]}, {**before.raw[1], "sni": ["b.test", "c.test"]}])
    assert after.entries[0] is kept
    assert after.entries[1] is not before.entries[1]


async def test_a_reload_of_the_same_listener_lets_its_clients_resume(pki):
    tls = pki("a", "a.test")
    conf = config(clusters=[echo()], listeners=[block("HTTP", tls)])
    async with running(conf) as proxy:
        context = pki.client()
        _, session = await asyncio.to_thread(shake, port_of(proxy, "in"), context, "a.test")
        await proxy.apply(config(clusters=[echo()], listeners=[block("HTTP", tls, options={"header_timeout": 5})]))
        assert (await asyncio.to_thread(shake, port_of(proxy, "in"), context, "a.test", session))[0]


@pytest.mark.parametrize(("protocol", "tickets"), [("TCP", False), ("HTTP", True), ("auto", True)])
async def test_tickets_are_for_http_only(pki, protocol, tickets):
    async with running(config(clusters=[echo()], listeners=[block(protocol, pki("a", "a.test"))])) as proxy:
        _, session = await asyncio.to_thread(shake, port_of(proxy, "in"), pki.client(), "a.test")
    assert session.has_ticket is tickets


# -- files that change


async def rotated(pki, protocol, rotate):
    """What log and status say after the files of a running listener have changed."""
    front = block(protocol, pki("a", "a.test"))
    if protocol == "JSONSocket":
        front["spec"] = {"protocol": protocol, "transport": {**front["spec"], "protocol": "TCP"}}
    elif protocol == "framed":
        front["spec"] |= {"protocol": "TCP", "framing": "lines"}
    conf = config(clusters=[echo()], listeners=[front])
    said = []
    async with running(conf) as proxy:
        proxy.env.warn = lambda event, **values: said.append((event, values["of"], values["reason"]))
        rotate()
        for _ in range(3):
            proxy.listeners["in"].tick(asyncio.get_running_loop().time())
            await looked(proxy)
            await wait_until(lambda: said)
        async with secure(port_of(proxy, "in"), pki.client(), "a.test"):
            pass  # the old one is still good, and its client believes it
        return proxy.listeners["in"].certificates.trouble, said


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_key_that_does_not_fit_leaves_the_old_certificate_and_is_said_once(pki, protocol):
    trouble, said = await rotated(
        pki, protocol, lambda: pki("other", "a.test") and (pki.folder / "a.pem").write_bytes((pki.folder / "other.pem").read_bytes())
    )
    assert "no certificate and its key" in trouble
    assert said == [("the old certificate stays in force", "listener/in", trouble)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_certificate_that_has_expired_does_not_replace_one_that_is_good(pki, protocol):
    trouble, said = await rotated(pki, protocol, lambda: pki.expired("a", "a.test"))
    assert "has expired on" in trouble
    assert said == [("the old certificate stays in force", "listener/in", trouble)]


def test_one_bad_file_does_not_keep_the_others_from_being_read(pki):
    tls = ServerTls([pki("a", "a.test"), {**pki("b", "b.test"), "sni": "b.test"}])
    a, b = tls.entries
    (pki.folder / "a.pem").write_text("nonsense")
    pki("b", "b.test")
    assert not tls.refresh()
    assert tls.entries[0] is a
    assert tls.entries[1] is not b
    assert "a.pem" in tls.trouble


def test_what_expires_while_it_is_in_force_is_said(pki):
    tls = ServerTls(pki("a", "a.test"))
    assert not tls.trouble
    tls.entries[0].until = 1.0
    assert "has expired on 1970-01-01" in tls.trouble


def test_a_listener_may_start_with_an_expired_certificate_and_says_so(pki):
    assert "has expired on" in ServerTls(pki.expired("a", "a.test")).trouble


async def test_status_and_metrics_say_what_is_wrong_with_a_certificate(pki):
    from carrier.observe.metrics import Metrics
    from carrier.observe.overview import overview

    up = {**cluster("up", 1), "spec": {"protocol": "TCP", "port": 1, "tls": {"ca": pki.ca, **pki("mine", "me.test")}}}
    conf = config(clusters=[echo(), up], listeners=[block("TCP", pki("a", "a.test"))])
    async with running(conf) as proxy:
        pki.expired("a", "a.test")
        pki.expired("mine", "me.test")
        now = asyncio.get_running_loop().time()
        proxy.listeners["in"].tick(now)
        proxy.clusters["up"].tick(now)
        await looked(proxy)
        shown = overview(proxy)
        text = (await Metrics(proxy).text())[1].decode()
    for found in (shown["listeners"][0]["tls"], next(c for c in shown["clusters"] if c["name"] == "up")["tls"]):
        assert "has expired on" in found["trouble"]
        assert found["certificates"][0]["expires"] > "2026"
    assert 'carrier_certificate_trouble{object="listener/in"} 1.0' in text
    assert 'carrier_certificate_trouble{object="cluster/up"} 1.0' in text
    assert 'carrier_certificate_expiry_timestamp_seconds{file="' in text


# -- the hello


async def test_a_hello_in_several_records_is_read(pki):
    """Pass-through by name, and the choice of an entry: each byte of the hello in a record of its own would be too many, so in pieces."""
    rules = [{"match": {"matchSni": {"sni": "a.test"}}, "action": {"route": {"destination": "echo"}}}]
    for protocol in ("TCP", "auto", "HTTP"):
        conf = config(clusters=[echo()], listeners=[block(protocol, pki("a", "a.test"), rules=rules)])
        async with running(conf) as proxy:
            assert b"hello" in await talk(port_of(proxy, "in"), pki.client(None, "http/1.1"), "a.test", 40)


async def test_a_hello_in_several_records_is_routed_by_its_name_and_passed_through_as_it_came(pki):
    rules = [
        {"match": {"matchSni": {"sni": "a.test"}}, "action": {"route": {"destination": "inner"}}},
        {"action": {"route": {"destination": "other"}}},
    ]
    async with (
        tcp_server(saying(b"no TLS")) as other,
        running(config(clusters=[echo()], listeners=[block("TCP", pki("a", "a.test"))])) as inner,
    ):
        clusters = [cluster("inner", port_of(inner, "in")), cluster("other", other.port)]
        for outer in (listener("in", spec={"tls": {"passthrough": True}}, rules=rules), listener("in", protocol="auto", rules=rules)):
            async with running(config(clusters=clusters, listeners=[outer])) as proxy:
                assert b"hello" in await talk(port_of(proxy, "in"), pki.client(), "a.test", 40)


async def talk(port, context, name, piece):
    """Say hello inside TLS, the ClientHello cut into records of `piece` bytes, each in a segment of its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        first = True
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sent = outgoing.read()
                if first:
                    body = sent[5:]
                    for i in range(0, len(body), piece):
                        part = body[i : i + piece]
                        writer.write(sent[:3] + len(part).to_bytes(2, "big") + part)
                        await asyncio.sleep(0.002)
                    first = False
                else:
                    writer.write(sent)
                data = await asyncio.wait_for(reader.read(65536), 5)
                assert data, "closed in the handshake"
                incoming.write(data)
        tls.write(b"POST /hello HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello")
        writer.write(outgoing.read())
        found = b""
        while b"hello" not in found:
            data = await asyncio.wait_for(reader.read(65536), 5)
            if not data:
                break
            incoming.write(data)
            try:
                found += tls.read(65536)
            except ssl.SSLWantReadError:
                continue
        return found
    finally:
        writer.close()


# -- ALPN


async def test_h2_is_agreed_on_where_the_listener_says_so_and_passes_as_bytes(pki):
    context = pki.client(None, "h2", "http/1.1")
    conf = config(clusters=[echo()], listeners=[block("TCP", {**pki("a", "a.test"), "alpn": ["h2"]})])
    async with running(conf) as proxy, secure(port_of(proxy, "in"), context, "a.test") as (reader, writer):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert await asyncio.wait_for(reader.readexactly(24), 5) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        assert next(iter(proxy.listeners["in"].live)).metadata["TLS"]["alpn"] == "h2"


async def test_a_cluster_offers_the_protocols_that_it_is_told_to(pki):
    async with running(config(clusters=[echo()], listeners=[block("TCP", {**pki("a", "a.test"), "alpn": ["h2", "spdy"]})])) as inner:
        up = {
            **cluster("up", port_of(inner, "in")),
            "spec": {"protocol": "TCP", "port": port_of(inner, "in"), "tls": {"sni": "a.test", "ca": pki.ca, "alpn": ["spdy", "h2"]}},
        }
        async with running(config(clusters=[up], listeners=[listener("out", "up")])) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "out"))
            await wait_until(lambda: inner.listeners["in"].live)
            assert next(iter(inner.listeners["in"].live)).metadata["TLS"]["alpn"] == "h2"
            writer.close()


@pytest.mark.parametrize("alpn", ["h2", [1], [""], ["x" * 256]])
def test_what_is_no_list_of_protocols_is_refused(alpn):
    assert "list of protocols" in str(check_server({"certificate": "a", "key": "b", "alpn": alpn}, "$")[0])
    assert "list of protocols" in str(check_client({"alpn": alpn}, "$")[0])


@pytest.mark.parametrize("kind", [HttpListener, HttpCluster])
def test_what_an_http_hop_does_not_speak_is_not_offered_there(kind):
    tls = {"certificate": "c.pem", "key": "k.pem", "alpn": ["mqtt", "h2"]}
    (found,) = kind.check({"protocol": "HTTP", "port": 443, "tls": tls}, "$.spec")
    assert (found.path, found.seen, found.allowed) == ("$.spec.tls.alpn", "mqtt", "h2, http/1.1, http/1.0")
    for other in (AutoListener, AutoCluster, TcpListener):
        assert not other.check({"protocol": other.protocol, "port": 443, "tls": tls}, "$.spec")


def test_an_env_without_a_log_says_nothing():
    loop = asyncio.new_event_loop()
    Env(loop).warn("nobody", reason="hears it")
    loop.close()
