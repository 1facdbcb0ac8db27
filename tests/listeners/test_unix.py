"""UNIX listener in its three modes: files, sessions, ends, limits."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from carrier.config.findings import warnings
from carrier.errors import Error
from listeners.unix import UnixListener
from tests.sockets import MODES, client, server
from tests.support import cluster, config, echo, listener, port_of, running, tcp, tcp_server, wait_until

ALL = sorted(MODES)
CONNECTED = ["seqpacket", "stream"]


def unix(name: str, path: Path, mode: str = "stream", destination: object = "echo", **fields: Any) -> dict[str, Any]:
    """A UNIX listener whose one rule leads to `destination`."""
    spec = {"protocol": "UnixDomainSocket", "filename": str(path), "mode": mode}
    return {"name": name, "spec": spec, "rules": [{"action": {"route": {"destination": destination}}}], **fields}


@pytest.mark.parametrize("mode", ALL)
async def test_what_is_sent_is_echoed_message_by_message(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, mode)])) as proxy:
        with client(path, mode) as one:
            for message in (b"one", b"three" * 1000, b"x"):
                await one.send(message)
                assert await one.exactly(len(message)) == message if mode == "stream" else await one.read() == message
            (session,) = proxy.sessions()
            assert session.name == "UNIX:in-0"
            assert session.metadata == {"name": "UNIX:in-0", "UNIX": {"filename": str(path)}}
    assert not path.exists()


@pytest.mark.parametrize("mode", ["seqpacket", "dgram"])
async def test_messages_that_come_together_stay_apart(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, mode)])):
        with client(path, mode) as one:
            sent = [b"%d" % i * (i % 5 + 1) for i in range(150)]
            sending = asyncio.create_task(all_of(one, sent))
            assert [await one.read() for _ in sent] == sent
            await sending


async def all_of(one: Any, messages: list[bytes]) -> None:
    for message in messages:
        await one.send(message)


async def test_an_empty_datagram_passes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, "dgram")])):
        with client(path, "dgram") as one:
            one.sock.send(b"")
            one.sock.send(b"x")
            assert [await one.read(), await one.read()] == [b"", b"x"]


@pytest.mark.parametrize("mode", CONNECTED)
async def test_a_client_that_has_ended_still_reads_its_answer(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[unix("in", path, mode, "up")])
        async with running(conf) as proxy:
            with client(path, mode) as one:
                await one.send(b"ask")
                one.end()
                peer = await upstream.peer()
                assert await peer.read_all() == b"ask"
                peer.send(b"answer")
                peer.end()
                assert await one.exactly(6) == b"answer"
                assert await one.read() == b""
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


@pytest.mark.parametrize("mode", ALL)
async def test_a_slow_reader_gets_everything_and_holds_little(mode: str, tmp_path: Path) -> None:
    """A flood that nobody reads for a while: streams are paused, a dgram session drops what it counts."""
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, mode)])) as proxy:
        with client(path, mode) as one:
            piece, count = b"x" * 4000, 1000
            sending = asyncio.create_task(all_of(one, [piece] * count))
            await wait_until(lambda: proxy.listeners["in"].live, "for the session")
            source: Any = next(iter(proxy.sessions())).source
            await wait_until(lambda: source.full, "for a full queue")
            assert source.size < 400_000
            if mode == "dgram":
                sending.cancel()
                assert await one.read() == piece
                return
            assert await one.exactly(len(piece) * count) == piece * count if mode == "stream" else True
            for _ in range(count if mode == "seqpacket" else 0):
                assert await one.read() == piece
            await sending


async def test_a_sender_without_an_address_is_heard_and_not_answered(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, "dgram")])) as proxy:
        with client(path, "dgram", bound=False) as one, client(path, "dgram", bound=False) as two:
            await one.send(b"a")
            await two.send(b"b")
            await wait_until(lambda: proxy.listeners["in"].live, "for the session")
            (session,) = proxy.sessions()
            await wait_until(lambda: session.source.messages_in == 2)
            assert session.dropped == 2


async def test_datagram_peers_are_told_apart_and_forgotten_when_idle(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, "dgram", options={"max_connections": 2})])) as proxy:
        listening = proxy.listeners["in"]
        assert isinstance(listening, UnixListener)
        with client(path, "dgram") as one, client(path, "dgram") as two, client(path, "dgram") as three:
            for peer, text in ((one, b"1"), (two, b"2")):
                await peer.send(text)
                assert await peer.read() == text
            await three.send(b"3")
            await wait_until(lambda: listening.dropped.get("full"), "for the third to be refused")
            now = proxy.env.loop.time()
            listening.tick(now)
            listening.tick(now + 59)
            assert len(listening.peers) == 2
            listening.tick(now + 61)
            assert not listening.peers and not listening.live
            await three.send(b"3")
            assert await three.read() == b"3"


@pytest.mark.parametrize("mode", CONNECTED)
async def test_a_killed_session_is_closed(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, mode)])) as proxy:
        with client(path, mode) as one:
            await one.send(b"x")
            assert await one.read() == b"x"
            next(iter(proxy.sessions())).kill()
            assert await one.read() == b""


@pytest.mark.parametrize("mode", ALL)
async def test_an_idle_session_ends_when_the_limit_says_so(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, mode, options={"idle_timeout": 5})])) as proxy:
        with client(path, mode) as one:
            await one.send(b"x")
            assert await one.read() == b"x"
            now = proxy.env.loop.time()
            proxy.listeners["in"].tick(now)
            proxy.listeners["in"].tick(now + 6)
            assert not list(proxy.sessions())


async def test_a_stale_file_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server(path).sock.close()
    assert path.exists()
    conf = config(clusters=[echo()], listeners=[unix("in", path)])
    async with running(conf), running() as second:
        with pytest.raises(Error, match="in use"):
            await second.apply(conf)
        with client(path) as one:
            await one.send(b"x")
            assert await one.read() == b"x"


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    async with running() as proxy:
        with pytest.raises(Error, match="in use"):
            await proxy.apply(config(clusters=[echo()], listeners=[unix("in", path)]))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", ALL)
async def test_a_replaced_listener_keeps_its_file_and_its_sessions(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    conf = config(clusters=[echo()], listeners=[unix("in", path, mode)])
    async with running(conf) as proxy:
        with client(path, mode) as old:
            await old.send(b"a")
            assert await old.read() == b"a"
            await proxy.apply(config(base=conf, listeners=[unix("in", path, mode, options={"track": 1})]))
            await asyncio.sleep(0)
            assert path.exists()
            with client(path, mode) as new:
                for one in (old, new):
                    await one.send(b"b")
                    assert await one.read() == b"b"
            assert len(list(proxy.sessions())) == 2 or mode != "dgram"
    assert not path.exists()


@pytest.mark.parametrize("mode", ALL)
async def test_an_undone_change_removes_only_its_own_file(mode: str, tmp_path: Path) -> None:
    path, other = tmp_path / "s", tmp_path / "t"
    conf = config(clusters=[echo()], listeners=[unix("in", path, mode)])
    async with running(conf) as proxy:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            tcp = {"name": "tcp", "spec": {"protocol": "TCP", "port": taken.getsockname()[1]}, "rules": []}
            changed = [unix("in", path, mode, options={"track": 1}), unix("new", other, mode), tcp]
            with pytest.raises(Error, match="bind"):
                await proxy.apply(config(base=conf, listeners=changed))
        await asyncio.sleep(0)
        assert path.exists() and not other.exists()
        with client(path, mode) as one:
            await one.send(b"x")
            assert await one.read() == b"x"


async def test_an_abstract_name_needs_no_file() -> None:
    name = f"@carrier-test-{os.getpid()}"
    made = unix("in", Path("x"))
    made["spec"]["filename"] = name
    async with running(config(clusters=[echo()], listeners=[made])):
        with client("\0" + name[1:]) as one:
            await one.send(b"x")
            assert await one.read() == b"x"


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({}, "needs 'filename'"),
        ({"filename": 5}, "expected a path"),
        ({"filename": "x" * 108}, "expected a path"),
        ({"filename": "x", "mode": "raw"}, "unknown mode"),
        ({"filename": "x", "mode": "dgram", "framing": "lines"}, "keeps the limits"),
        ({"filename": "x", "port": 5}, "unknown field"),
    ],
)
def test_the_strict_check_names_what_is_wrong(spec: dict[str, Any], wrong: str) -> None:
    assert wrong in str(UnixListener.check({"protocol": "UnixDomainSocket", **spec})[0])
    assert not UnixListener.check({"protocol": "UnixDomainSocket", "filename": "/tmp/x", "mode": "seqpacket"})


def test_messages_into_a_stream_of_bytes_are_warned_of(tmp_path: Path) -> None:
    up = cluster("up", 1)
    assert not warnings(config(clusters=[up], listeners=[unix("in", tmp_path / "s", "stream", "up")]))
    for mode in ("seqpacket", "dgram"):
        assert "limits" in warnings(config(clusters=[up], listeners=[unix("in", tmp_path / "s", mode, "up")]))[0]


# -- the file


async def test_the_file_has_the_mode_that_is_asked_for_from_its_first_moment_and_may_get_another(tmp_path: Path) -> None:
    path = tmp_path / "s"
    conf = config(clusters=[echo()], listeners=[unix("in", path, options={"mode": "0660"})])
    async with running(conf) as proxy:
        assert path.stat().st_mode & 0o777 == 0o660
        await proxy.apply(config(clusters=[echo()], listeners=[unix("in", path, options={"mode": "0600"})]))
        assert path.stat().st_mode & 0o777 == 0o600
        with client(path) as one:
            await one.send(b"hello")
            assert await one.read() == b"hello"
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file away takes root")
async def test_the_file_belongs_to_whom_it_is_to_belong(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path, options={"user": 1234, "group": "daemon"})])):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (1234, grp.getgrnam("daemon").gr_gid)


@pytest.mark.parametrize("options", [{"mode": "0999"}, {"mode": True}, {"user": "no-such-user"}, {"group": -1}, {"mod": "0600"}])
def test_what_is_no_mode_and_nobody_is_refused(options: dict[str, Any]) -> None:
    assert UnixListener.check_options(options, "$")


async def test_a_file_that_somebody_else_has_put_in_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with running(config(clusters=[echo()], listeners=[unix("in", path)])):
        path.unlink()
        other = server(path)
    assert path.exists()
    with client(path):
        pass
    other.sock.close()


async def test_a_full_queue_of_connections_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(0)
    first = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    first.connect(str(path))
    up = {"name": "up", "spec": {"protocol": "UnixDomainSocket"}, "endpoints": [{"name": "e", "spec": {"address": str(path)}}]}
    async with running(config(clusters=[up], listeners=[listener("in", "up")])) as proxy, tcp(port_of(proxy, "in")) as one:
        one.send(b"hello")
        await asyncio.sleep(0.05)
        assert proxy.listeners["in"].live
        listening.setblocking(False)
        for _ in range(2):
            peer, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listening), 3)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 100), 3) == b"hello"
        peer.close()
    first.close()
    listening.close()
