"""User bridges on real sockets: laptops that fail in every way, leases, copies, whole ports; nobody else notices."""

import asyncio
import contextlib
import os

import pytest

from carrier.bridges.edits import Bridges
from carrier.errors import ConfigError, Error
from carrier.log import Log
from carrier.process.leases import Leases
from tests.ports import free_port
from tests.support import TcpServer, cluster, config, http, listener, port_of, running, tcp, tcp_server, wait_until

JOHN = {"matchHeader": {"name": "x-user", "value": "john"}}


def http_server_saying(text):
    async def serve(peer):
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            if b"chunked" in head:
                await peer.reader.readuntil(b"0\r\n\r\n")
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))

    return serve


@contextlib.asynccontextmanager
async def port(shadow, protocol="HTTP", **bridge):
    """(port, proxy, bridges) of a port with a shadow and, if asked for, john's bridge."""
    bridges = Bridges()
    base = config(clusters=[cluster("shadow", shadow, protocol=protocol)], listeners=[listener("in", "shadow", protocol=protocol)])
    async with running(bridges.put(base, "john", body(**bridge)) if bridge else base) as proxy:
        yield port_of(proxy, "in"), proxy, bridges


def body(**more):
    found = {"listener": "in", "user": "john", "match": JOHN, **more}
    return {name: value for name, value in found.items() if value is not None}


async def ask(port_number, method="GET", **headers):
    return await http(port_number, "/", method, {"x-user": "john", **headers})


async def silent(peer):
    await peer.reader.read()


async def slamming(peer):
    await peer.reader.readuntil(b"\r\n\r\n")
    peer.reset()


@pytest.mark.parametrize(
    ("laptop", "why", "said"),
    [
        (slamming, "reset", "does your container crash?"),
        (silent, "timeout", "stopped at a breakpoint?"),
    ],
)
async def test_a_laptop_that_takes_a_safe_request_and_fails_is_answered_for_by_the_shadow(laptop, why, said):
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(laptop) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}", answer_timeout=1) as (number, proxy, bridges),
    ):
        status, fields, text = await ask(number)
        assert (status, text, fields.get("x-carrier-fallback")) == (200, b"shadow", why)
        shown = bridges.dump(proxy.config, "john", proxy.clusters)["status"]
        assert not shown["healthy"]
        assert said in shown["health"]


@pytest.mark.parametrize(
    "answer",
    [
        b"220 this is a mail server\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno chunk",
    ],
)
async def test_an_answer_that_breaks_http_is_her_error_in_words_and_her_next_request_is_hers(answer):
    asked = 0

    async def babbling(peer):
        nonlocal asked
        await peer.reader.readuntil(b"\r\n\r\n")
        asked += 1
        peer.send(answer)

    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(babbling) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}") as (number, proxy, bridges),
    ):
        for n in range(7):
            status, fields, text = await ask(number)
            assert (status, fields.get("x-carrier-fallback"), asked) == (502, None, n + 1), text
            assert str(john.port).encode() in text and fields["x-carrier-error"] == "bad-answer"
        shown = bridges.dump(proxy.config, "john", proxy.clusters)["status"]
        assert "does not answer in the protocol of this port" in shown["health"]
        assert not proxy.clusters["bridge/john"].down


async def test_who_stood_at_a_breakpoint_is_asked_again_at_once():
    asked, going = 0, False

    async def stopped(peer):
        nonlocal asked
        await peer.reader.readuntil(b"\r\n\r\n")
        asked += 1
        if going:
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nlaptop")
        await peer.reader.read()

    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(stopped) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}", answer_timeout=0.01) as (number, proxy, _),
    ):
        answers = await asyncio.gather(*(ask(number) for _ in range(6)))
        assert {(fields["x-carrier-fallback"], text) for _, fields, text in answers} == {("timeout", b"shadow")}
        going = True
        assert (await ask(number))[2] == b"laptop" and asked == 7
        assert not proxy.clusters["bridge/john"].down


async def test_an_interim_answer_does_not_end_the_fallback():
    async def hinting(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        await peer.writer.drain()

    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(hinting) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}") as (number, _, _),
        tcp(number) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-user: john\r\nconnection: close\r\n\r\n")
        said = await client.read_all()
        assert said.startswith(b"HTTP/1.1 103 Early Hints\r\n")
        assert b"HTTP/1.1 200 " in said and b"x-carrier-fallback: closed\r\n" in said and said.endswith(b"shadow")


async def test_what_may_have_been_done_is_not_done_twice():
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(slamming) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}") as (number, _, _),
    ):
        status, fields, _ = await ask(number, "DELETE")
        assert status == 502
        assert "x-carrier-fallback" not in fields


async def test_a_laptop_that_refuses_is_told_so_in_plain_words_and_soon_no_request_waits_for_it():
    gone = free_port()
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        port(shadow.port, endpoint=f"127.0.0.1:{gone}") as (number, proxy, bridges),
    ):
        for _ in range(6):
            assert (await ask(number))[2] == b"shadow"
        shown = bridges.dump(proxy.config, "john", proxy.clusters)["status"]
        assert shown["health"] == f"127.0.0.1:{gone} refused: is your container listening on {gone}?"
        assert proxy.clusters["bridge/john"].down
        async with tcp_server(http_server_saying(b"laptop"), port=gone):
            await wait_until(lambda: not proxy.clusters["bridge/john"].down, "for the laptop to be found again")
            assert (await ask(number))[2] == b"laptop"
            assert bridges.dump(proxy.config, "john", proxy.clusters)["status"]["health"] == "reached"


async def test_fallback_error_says_what_is_wrong_instead():
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(slamming) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}", fallback="error") as (number, _, _),
    ):
        assert (await ask(number))[0] == 502


async def test_a_mirror_gives_the_laptop_a_copy_and_the_shadow_answers():
    heard = []

    async def listening(peer):
        heard.append(await peer.reader.readuntil(b"\r\n\r\n"))
        peer.send(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")

    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(listening) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}", mirror=True) as (number, proxy, bridges),
    ):
        status, _, text = await ask(number, tag="1")
        assert (status, text) == (200, b"shadow")
        await wait_until(lambda: heard, "for the copy")
        assert b"tag: 1\r\n" in heard[0]
        assert (await http(number, "/"))[2] == b"shadow"
        assert len(heard) == 1
        bare = bridges.delete(proxy.config, "john")
        assert "bridge/john" not in {**bare.clusters, **bare.routes, **bare.rules}
        assert list(bare.clusters) == ["shadow"]


async def test_a_mirror_whose_laptop_is_away_harms_nobody():
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        port(shadow.port, endpoint=f"127.0.0.1:{free_port()}", mirror=True) as (number, _, _),
    ):
        for _ in range(3):
            assert (await ask(number))[::2] == (200, b"shadow")


@pytest.mark.parametrize("protocol", ["TCP", "auto"])
async def test_a_global_bridge_takes_a_whole_port_and_gives_it_back(protocol):
    async def echo(peer):
        while data := await peer.reader.read(100):
            peer.send(b"laptop " + data)

    async with (
        tcp_server(silent) as shadow,
        tcp_server(echo) as john,
        port(shadow.port, protocol, type="stream", match=None, endpoint=f"127.0.0.1:{john.port}") as (number, proxy, bridges),
    ):
        async with tcp(number) as client:
            client.send(b"\x00one")
            assert await client.read(11) == b"laptop \x00one"
            await proxy.apply(bridges.delete(proxy.config, "john"))
            client.send(b"two")
            assert await client.read(10) == b"laptop two"
        async with tcp(number) as client:
            client.send(b"\x00one")
            await shadow.peer()


async def test_a_bridge_made_after_a_global_one_comes_before_it_and_falls_back_to_the_shadow():
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(http_server_saying(b"all")) as everything,
        port(shadow.port, type="stream", match=None, endpoint=f"127.0.0.1:{everything.port}") as (number, proxy, bridges),
    ):
        jane = {**body(endpoint=f"127.0.0.1:{free_port()}"), "user": "jane"}
        await proxy.apply(bridges.put(proxy.config, "jane", jane))
        assert (await ask(number))[2] == b"shadow"
        assert (await http(number))[2] == b"all"


async def test_the_crd_s_path_prefix_is_a_bridge():
    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(http_server_saying(b"laptop")) as john,
        port(shadow.port, type="http", url="/api", match=None, endpoint=f"127.0.0.1:{john.port}") as (number, _, _),
    ):
        assert (await http(number, "/api/x"))[2] == b"laptop"
        assert (await http(number, "/web"))[2] == b"shadow"


async def test_a_lease_that_is_over_is_listed_as_expired_and_its_sessions_drain(monkeypatch):
    monkeypatch.setattr("carrier.process.leases.DRAIN", 0.1)

    async def tunnel(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        await peer.reader.read()

    async with (
        tcp_server(http_server_saying(b"shadow")) as shadow,
        tcp_server(tunnel) as john,
        port(shadow.port, endpoint=f"127.0.0.1:{john.port}", expires=0.3) as (number, proxy, bridges),
    ):
        leases = Leases(proxy, bridges, Log("error"))
        leases.start()
        async with tcp(number) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-user: john\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            with contextlib.suppress(ConnectionResetError):
                assert await client.read_all() == b""
        leases.stop()
        (shown,) = bridges.dump(proxy.config, None, proxy.clusters)
        assert (shown["name"], shown["status"]["state"]) == ("john", "expired")
        assert (await ask(number))[2] == b"shadow"


async def test_a_renewed_lease_lives_on():
    async with port(1, endpoint="127.0.0.1:1", expires=60) as (_, proxy, bridges):
        renewed = bridges.renew(proxy.config, "john", {"expires": 3600})
        assert renewed.bridges["john"].expires > proxy.config.bridges["john"].expires + 3000
        assert renewed.rules == proxy.config.rules
        with pytest.raises(ConfigError):
            bridges.renew(proxy.config, "john", {"expires": -1})
        with pytest.raises(Error):
            bridges.renew(proxy.config, "jane", {"expires": 1})


# -- validation


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"user": "jane"}, "bridge 'john' of user john has the same rule already"),
        ({"user": "jane", "match": [JOHN, {"matchPath": {"path": "/a"}}]}, "comes first and takes all its requests"),
        ({"match": {"matchPath": {"path": "/", "type": "prefix"}}}, "takes every session"),
        ({"match": {"matchPath": {"path": "(", "type": "regex"}}}, "missing )"),
        ({"listener": None, "port": 9}, "there is no port 9"),
        ({"type": "datagram"}, "unknown type"),
    ],
)
async def test_what_cannot_work_is_said_in_a_sentence(more, sentence):
    async with port(1, endpoint="127.0.0.1:1") as (_, proxy, bridges):
        found = bridges.validate(proxy.config, {**body(endpoint="10.0.0.1:80", **more), "name": "new"})
        assert not found["valid"]
        assert sentence in " ".join(found["reasons"])


@pytest.mark.parametrize(
    ("match", "wide"),
    [
        ({"matchPath": {"path": "/api", "type": "prefix"}}, True),
        ([{"matchPath": {"path": "/api"}}, {"matchMethod": {"method": "GET"}}], True),
        ({"matchHost": {"host": "app.test"}}, True),
        ([{"matchPath": {"path": "/api"}}, JOHN], False),
        ({"matchBaggage": {"name": "user", "value": "jane"}}, False),
        ({"matchCookie": {"name": "user", "value": "jane"}}, False),
        ({"matchSource": {"cidr": "10.0.0.0/24"}}, False),
    ],
)
async def test_a_legal_and_wide_rule_is_a_warning(match, wide):
    async with port(1, endpoint="127.0.0.1:1") as (_, proxy, bridges):
        found = bridges.validate(proxy.config, body(user="jane", endpoint="10.0.0.1:80", match=match))
        if not found["valid"]:
            assert match[1:] == [JOHN], found
            return
        assert bool(found["warnings"]) is wide


async def test_twenty_users_come_go_and_crash_under_load_and_nobody_gets_anothers_answer():
    """Every answer is the user's own laptop's or the shadow's, marked when it stands in. CARRIER_SOAK: seconds, for the long form."""
    users = 20
    until = asyncio.get_running_loop().time() + float(os.environ.get("CARRIER_SOAK", "0"))

    @contextlib.asynccontextmanager
    async def laptop(i):
        """A laptop at an address of its own, as laptops have, so that none ever gets a port that was another's; its port."""
        peers = TcpServer(http_server_saying(b"user%d" % i))
        server = await asyncio.start_server(peers.accepted, f"127.0.1.{i}", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for peer in peers.peers:
                peer.writer.transport.abort()

    async with contextlib.AsyncExitStack() as stack:
        shadow = await stack.enter_async_context(tcp_server(http_server_saying(b"shadow")))
        async with port(shadow.port) as (number, proxy, bridges):
            done = asyncio.Event()
            counts = {"own": 0, "fallback": 0, "shadow": 0}

            async def asking(i):
                while not done.is_set():
                    status, fields, text = await http(number, "/", headers={"x-user": f"u{i}"})
                    assert status == 200
                    assert text in (b"user%d" % i, b"shadow")
                    kind = "own" if text != b"shadow" else "fallback" if "x-carrier-fallback" in fields else "shadow"
                    counts[kind] += 1

            load = [asyncio.create_task(asking(i)) for i in range(users)]
            turn = 0
            while turn < 3 or asyncio.get_running_loop().time() < until:
                async with contextlib.AsyncExitStack() as laptops:
                    for i in range(users):
                        away = i % 5 == turn % 5  # a laptop that has crashed: its bridge is there, it is not
                        where = 1 if away else await laptops.enter_async_context(laptop(i))
                        match = {"matchHeader": {"name": "x-user", "value": f"u{i}"}}
                        async with proxy.lock:
                            bridge = {"listener": "in", "user": f"u{i}", "match": match, "endpoint": f"127.0.1.{i}:{where}"}
                            await proxy.apply(bridges.put(proxy.config, f"u{i}", bridge))
                    seen = dict(counts)
                    await wait_until(lambda seen=seen: counts["own"] > seen["own"] + 20 and counts["fallback"] > seen["fallback"])
                    for i in range(0, users, 2):
                        async with proxy.lock:
                            await proxy.apply(bridges.delete(proxy.config, f"u{i}"))
                turn += 1
            done.set()
            await asyncio.gather(*load)
            assert min(counts.values()) > 0
            print(f"{turn} turns of {users} users: {counts}")


async def test_two_users_cannot_have_the_whole_port():
    async with port(1, type="stream", match=None, endpoint="127.0.0.1:1") as (_, proxy, bridges):
        with pytest.raises(Error) as caught:
            bridges.put(proxy.config, "jane", {**body(type="stream", match=None, endpoint="127.0.0.1:2"), "user": "jane"})
        assert "bridge 'john' of user john" in caught.value.detail
