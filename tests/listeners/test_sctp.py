"""SCTP, listener and cluster: messages, ends, refusals on a kernel that has it; the refusal with its reason on one that has not.

Where this machine's kernel has none, `make sctp` runs these tests on one that has (tests/soak/sctp_uml.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from carrier.core.stream import link
from carrier.errors import Error
from carrier.hops.bytesocket import LINGER_RST
from carrier.hops.packetsocket import LONGEST
from carrier.hops.sctp import SCTP_NODELAY, SctpSocket, missing, sctp_socket
from clusters.sctp import SctpCluster
from listeners.sctp import SctpListener
from tests.ports import free_port
from tests.soak.process import Carrier
from tests.sockets import Unix, wait_readable
from tests.support import PATIENCE, Neighbour, cluster, config, echo, listener, port_of, running, tcp_server, udp, wait_until

kernel = pytest.mark.skipif(bool(missing()), reason=missing())


class Sctp(Unix):
    """An association, seen from outside the proxy."""

    async def read(self, size: int = 1 << 20) -> bytes:
        """The next message, in however many parts it comes; b"" at the end."""
        message = b""
        while True:
            try:
                part, _, flags, _ = self.sock.recvmsg(size)
            except BlockingIOError:
                await wait_readable(self)
                continue
            message += part
            if not part or flags & socket.MSG_EOR:
                return message

    def abort(self) -> None:
        """ABORT instead of SHUTDOWN (RFC 6458 section 8.1.4)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
        self.sock.close()


async def dial(port: int, host: str = "127.0.0.1") -> Sctp:
    """A client's association."""
    client = Sctp(sctp_socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    await asyncio.wait_for(client.loop.sock_connect(client.sock, (host, port)), PATIENCE)
    return client


class Upstream(Sctp):
    """A listening socket on loopback."""

    def __init__(self) -> None:
        super().__init__(sctp_socket(socket.AF_INET))
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.port: int = self.sock.getsockname()[1]

    async def peer(self) -> Sctp:
        """The next association."""
        sock, _ = await asyncio.wait_for(self.loop.sock_accept(self.sock), PATIENCE)
        return Sctp(sock)


def through(port: int, **fields: Any) -> Any:
    """A configuration: a listener "in" in front of the upstream at `port`, both SCTP."""
    return config(clusters=[cluster("up", port, protocol="SCTP")], listeners=[listener("in", "up", protocol="SCTP", **fields)])


async def all_of(one: Unix, messages: list[bytes]) -> None:
    for message in messages:
        await one.send(message)


# ---------------------------------------------------------------------- messages


@kernel
async def test_messages_are_echoed_with_their_limits() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", protocol="SCTP")])) as proxy:
        with await dial(port_of(proxy, "in")) as client:
            sent = [b"one", os.urandom(20_000), *(b"m%d" % i for i in range(1000)), os.urandom(100_000), b"last"]
            sending = asyncio.create_task(all_of(client, sent))
            assert [await client.read() for _ in sent] == sent
            await sending
            (session,) = proxy.sessions()
            assert session.name.startswith("SCTP:127.0.0.1:") and session.metadata["SCTP"]["dst_port"] == port_of(proxy, "in")
            assert session.source.messages_in == session.source.messages_out == len(sent)
        await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


@kernel
async def test_from_sctp_to_sctp_each_message_arrives_as_one() -> None:
    with Upstream() as upstream:
        async with running(through(upstream.port)) as proxy:
            with await dial(port_of(proxy, "in")) as client, await upstream.peer() as peer:
                there, back = [b"%d" % i * (i % 50 + 1) for i in range(500)], [os.urandom(5000) for _ in range(50)]
                sending = [asyncio.create_task(all_of(client, there)), asyncio.create_task(all_of(peer, back))]
                assert [await peer.read() for _ in there] == there
                assert [await client.read() for _ in back] == back
                await asyncio.gather(*sending)


@kernel
async def test_a_cluster_reaches_a_listener_of_another_proxy() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("out", protocol="SCTP")])) as second:
        up = cluster("up", port_of(second, "out"), protocol="SCTP")
        conf = config(clusters=[up], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as first, udp(port_of(first, "in")) as client:
            sent = [b"m%d" % i for i in range(50)]
            for message in sent:
                client.send(message)
            assert [await client.read() for _ in sent] == sent


@kernel
async def test_both_ends_send_small_messages_at_once() -> None:
    """SCTP_NODELAY: or every second message waits for the acknowledgement of the first, 200 ms."""
    with Upstream() as upstream:
        async with running(through(upstream.port)) as proxy:
            with await dial(port_of(proxy, "in")) as client, await upstream.peer() as peer:
                (session,) = proxy.sessions()
                for hop in (session.source, session.destination):
                    assert hop.sock.getsockopt(socket.IPPROTO_SCTP, SCTP_NODELAY) == 1  # type: ignore[attr-defined]
                began = asyncio.get_running_loop().time()
                for _ in range(20):
                    await all_of(client, [b"a", b"b"])
                    assert [await peer.read(), await peer.read()] == [b"a", b"b"]
                    await all_of(peer, [b"c", b"d"])
                    assert [await client.read(), await client.read()] == [b"c", b"d"]
                assert asyncio.get_running_loop().time() - began < 2


@kernel
async def test_a_message_longer_than_any_that_is_taken_ends_the_session() -> None:
    ear, (ours, theirs) = Neighbour(), await associated()
    hop = SctpSocket(asyncio.get_running_loop(), ours.sock, "upstream", half=False)
    link([ear, hop])
    hop.resume()
    theirs.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * LONGEST)
    sending = asyncio.create_task(theirs.loop.sock_sendall(theirs.sock, bytes(LONGEST + 1)))
    await wait_until(lambda: ear.heard)
    assert ear.heard == ["reset", "stop"] and hop.closed
    sending.cancel()
    theirs.sock.close()


async def associated() -> tuple[Sctp, Sctp]:
    """Both ends of an association."""
    with Upstream() as upstream:
        client = await dial(upstream.port)
        return client, await upstream.peer()


@kernel
async def test_without_an_address_a_listener_has_all_of_both_kinds() -> None:
    conf = listener("in", protocol="SCTP")
    conf["spec"] = {"protocol": "SCTP", "port": 0}
    async with running(config(clusters=[echo()], listeners=[conf])) as proxy:
        for host in ("127.0.0.1", "::1"):
            with await dial(port_of(proxy, "in"), host) as client:
                await client.send(b"hello")
                assert await client.read() == b"hello"
                names = [session.metadata["IP"]["src_addr"] for session in proxy.sessions()]
                assert host in names


# ---------------------------------------------------------------------- ends


@kernel
@pytest.mark.parametrize("word", ["shutdown", "close"])
async def test_a_client_that_ends_ends_the_association_on_the_other_side(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no half-closed association (RFC 9260 section 9): what the client said before arrives, and then the end."""
    monkeypatch.setattr("carrier.hops.packetsocket.LINGER", 0.05)
    with Upstream() as upstream:
        async with running(through(upstream.port, options={"track": 60})) as proxy:
            client = await dial(port_of(proxy, "in"))
            with await upstream.peer() as peer:
                await all_of(client, [b"one", b"two"])
                client.end() if word == "shutdown" else client.sock.close()
                assert [await peer.read() for _ in range(3)] == [b"one", b"two", b""]
                await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")
                (session,) = proxy.sessions()
                assert session.error is None and session.source.messages_in == 2
            client.sock.close()


@kernel
async def test_an_upstream_that_ends_ends_the_client() -> None:
    with Upstream() as upstream:
        async with running(through(upstream.port)) as proxy:
            with await dial(port_of(proxy, "in")) as client:
                with await upstream.peer() as peer:
                    await all_of(peer, [b"one", b"two"])
                assert [await client.read() for _ in range(3)] == [b"one", b"two", b""]
                await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


@kernel
async def test_the_end_of_a_byte_stream_behind_it_comes_after_its_last_bytes() -> None:
    async with tcp_server() as server:
        conf = config(clusters=[cluster("up", server.port)], listeners=[listener("in", "up", protocol="SCTP")])
        async with running(conf) as proxy:
            with await dial(port_of(proxy, "in")) as client:
                peer = await server.peer()
                peer.send(b"x" * 100_000)
                peer.end()
                got = b""
                while data := await client.read():
                    got += data
                assert got == b"x" * 100_000


@kernel
async def test_a_client_that_aborts_resets_the_upstream() -> None:
    with Upstream() as upstream:
        async with running(through(upstream.port, options={"track": 60})) as proxy:
            client = await dial(port_of(proxy, "in"))
            with await upstream.peer() as peer:
                await client.send(b"hello")
                assert await peer.read() == b"hello"
                client.abort()
                with pytest.raises(ConnectionResetError):
                    await peer.read()
            (session,) = proxy.sessions()
            assert session.error is not None and (session.error.kind, session.error.side) == ("reset", "downstream")


@kernel
async def test_an_upstream_that_aborts_resets_the_client() -> None:
    with Upstream() as upstream:
        async with running(through(upstream.port, options={"track": 60})) as proxy:
            with await dial(port_of(proxy, "in")) as client:
                (await upstream.peer()).abort()
                with pytest.raises(ConnectionResetError):
                    await client.read()
            await wait_until(lambda: not proxy.listeners["in"].live)
            (session,) = proxy.sessions()
            assert session.error is not None and (session.error.kind, session.error.side) == ("reset", "upstream")


@kernel
async def test_a_refused_upstream_is_said_and_the_client_is_reset() -> None:
    async with running(through(free_port(), options={"track": 60})) as proxy:
        with await dial(port_of(proxy, "in")) as client, pytest.raises(ConnectionResetError):
            await client.read()
        (session,) = proxy.sessions()
        assert session.error is not None and session.error.kind == "refused", session.error


@kernel
async def test_a_session_removed_from_the_api_ends_in_order() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", protocol="SCTP")])) as proxy:
        with await dial(port_of(proxy, "in")) as client:
            await client.send(b"hello")
            assert await client.read() == b"hello"
            next(iter(proxy.sessions())).kill()
            assert await client.read() == b""


@kernel
async def test_an_idle_association_ends_after_its_time() -> None:
    conf = listener("in", protocol="SCTP", options={"idle_timeout": 5, "track": 60})
    async with running(config(clusters=[echo()], listeners=[conf])) as proxy:
        running_listener = proxy.listeners["in"]
        assert isinstance(running_listener, SctpListener)
        with await dial(port_of(proxy, "in")) as client:
            await client.send(b"hello")
            assert await client.read() == b"hello"
            now = proxy.env.loop.time()
            for later in (0, 4):
                running_listener.tick(now + later)
            assert running_listener.live
            running_listener.tick(now + 6)
            assert not running_listener.live and not running_listener.idle.seen
            with pytest.raises(ConnectionResetError):
                await client.read()


# ---------------------------------------------------------------------- a process of its own


@kernel
async def test_a_carrier_of_its_own_carries_sctp_to_sctp(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    spec = {"protocol": "SCTP", "address": "127.0.0.1"}
    conf = {
        "clusters": [echo(), cluster("up", ports[1], protocol="SCTP")],
        "listeners": [
            {"name": "in", "spec": {**spec, "port": ports[0]}, "rules": [{"action": {"route": {"destination": "up"}}}]},
            {"name": "out", "spec": {**spec, "port": ports[1]}, "rules": [{"action": {"route": {"destination": "echo"}}}]},
        ],
    }
    carrier = Carrier(tmp_path, conf)
    try:
        carrier.start()
        with await dial(ports[0]) as client:
            sent = [os.urandom(i) for i in range(1, 300)]
            sending = asyncio.create_task(all_of(client, sent))
            assert [await client.read() for _ in sent] == sent
            await sending
            status, sessions = carrier.call("GET", "/api/v1/sessions")
            assert status == 200 and [s["name"][:5] for s in sessions] == ["SCTP:", "SCTP:"]
            assert {s["counters"]["messages_in"] for s in sessions} == {len(sent)}
    finally:
        carrier.kill()


# ---------------------------------------------------------------------- what needs no kernel that has it


async def test_a_kernel_without_it_refuses_the_configuration_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_: int) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr("carrier.hops.sctp.sctp_socket", lacking)
    async with running() as proxy:
        for conf in (
            config(clusters=[cluster("up", 1, protocol="SCTP")]),
            config(clusters=[echo()], listeners=[listener("in", protocol="SCTP")]),
        ):
            with pytest.raises(Error, match="SCTP needs a kernel that has it: Protocol not supported"):
                await proxy.apply(conf)


def test_the_strict_check_is_that_of_ports() -> None:
    assert not SctpListener.check({"protocol": "SCTP", "port": 1, "address": "::1"})
    assert "tls" in str(SctpListener.check({"protocol": "SCTP", "port": 1, "tls": {}})[0])
    assert SctpCluster.check({"protocol": "SCTP"})
    assert not SctpListener.check_options({"idle_timeout": 5}) and SctpListener.check_options({"half_close_timeout": 5})
