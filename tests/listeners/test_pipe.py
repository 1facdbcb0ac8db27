"""PIPE listener: writers, answers, one session after another, files made and removed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from carrier.errors import Error
from listeners.pipe import PipeListener
from tests.ports import free_port
from tests.sockets import Pipe
from tests.support import cluster, config, echo, running, tcp_server, udp_server, wait_until


def pipe(path: Path, destination: object = "echo", reply: bool = True, **fields: Any) -> dict[str, Any]:
    """A PIPE listener at `path`/in, answering at `path`/out."""
    spec = {"protocol": "PIPE", "filename": str(path / "in"), **({"reply": str(path / "out")} if reply else {}), **fields.pop("spec", {})}
    return {"name": "in", "spec": spec, "rules": [{"action": {"route": {"destination": destination}}}], **fields}


async def test_what_is_written_goes_through_and_the_answer_comes_back(tmp_path: Path) -> None:
    async with running(config(clusters=[echo()], listeners=[pipe(tmp_path)])) as proxy:
        for text in (b"one", b"two" * 100_000):
            with Pipe(tmp_path / "out", os.O_RDONLY) as answers, Pipe(tmp_path / "in", os.O_WRONLY) as writer:
                sending = asyncio.create_task(writer.write(text))
                assert await answers.read(len(text)) == text
                await sending
                (session,) = proxy.sessions()
                assert session.metadata["PIPE"] == {"filename": str(tmp_path / "in"), "reply": str(tmp_path / "out")}
                writer.close()
                assert await answers.read(1) == b""
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")
        assert proxy.listeners["in"].counter == 2
    assert not list(tmp_path.iterdir())


async def test_what_is_written_between_two_sessions_is_not_lost(tmp_path: Path) -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[pipe(tmp_path, "up", reply=False)])
        async with running(conf) as proxy:
            with Pipe(tmp_path / "in", os.O_WRONLY) as first:
                await first.write(b"first")
                server = await upstream.peer(0)
                assert await server.read(5) == b"first"
            assert await server.read_all() == b""
            with Pipe(tmp_path / "in", os.O_WRONLY) as second:
                await second.write(b"second")  # the first session still waits for its upstream
            server.end()
            again = await upstream.peer(1)
            assert await again.read_all() == b"second"
            again.end()
            await wait_until(lambda: not list(proxy.sessions()))


async def test_writers_share_a_session_and_it_ends_with_the_last(tmp_path: Path) -> None:
    async with running(config(clusters=[echo()], listeners=[pipe(tmp_path)])) as proxy:
        with Pipe(tmp_path / "out", os.O_RDONLY) as answers, Pipe(tmp_path / "in", os.O_WRONLY) as one:
            with Pipe(tmp_path / "in", os.O_WRONLY) as two:
                await one.write(b"a")
                assert await answers.read(1) == b"a"
                await two.write(b"b")
                assert await answers.read(1) == b"b"
            assert len(list(proxy.sessions())) == 1
            one.close()
            assert await answers.read(1) == b""


async def test_lines_become_datagrams(tmp_path: Path) -> None:
    async with udp_server() as upstream:
        up = cluster("up", upstream.port, protocol="UDP")
        async with running(config(clusters=[up], listeners=[pipe(tmp_path, "up", spec={"framing": "lines"})])):
            with Pipe(tmp_path / "out", os.O_RDONLY) as answers, Pipe(tmp_path / "in", os.O_WRONLY) as writer:
                await writer.write(b"one\ntwo\n")
                assert [await upstream.read(), await upstream.read()] == [b"one", b"two"]
                assert await answers.read(8) == b"one\ntwo\n"


async def test_an_upstream_that_does_not_read_pauses_the_writer(tmp_path: Path) -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[pipe(tmp_path, "up", reply=False)])
        async with running(conf) as proxy:
            with Pipe(tmp_path / "in", os.O_WRONLY) as writer:
                data = os.urandom(1000) * 20_000
                sending = asyncio.create_task(writer.write(data))
                await wait_until(lambda: list(proxy.sessions()) and getattr(next(iter(proxy.sessions())).destination, "full", 0))
                server = await upstream.peer()
                assert await server.read(len(data)) == data
                await sending


async def test_what_a_refused_upstream_did_not_get_is_tried_again_at_a_tick(tmp_path: Path) -> None:
    port = free_port()
    conf = config(clusters=[cluster("up", port)], listeners=[pipe(tmp_path, "up", options={"track": 60})])
    async with running(conf) as proxy:
        with Pipe(tmp_path / "in", os.O_WRONLY) as writer:
            await writer.write(b"x")
            await wait_until(lambda: list(proxy.sessions()) and not proxy.listeners["in"].live, "for the failure")
            (failed,) = proxy.sessions()
            assert failed.error is not None and failed.error.kind == "refused"
            async with tcp_server(port=port) as upstream:
                proxy.listeners["in"].tick(proxy.env.loop.time())
                assert await (await upstream.peer()).read(1) == b"x"


async def test_an_idle_session_ends_when_the_limit_says_so(tmp_path: Path) -> None:
    async with running(config(clusters=[echo()], listeners=[pipe(tmp_path, options={"idle_timeout": 5})])) as proxy:
        with Pipe(tmp_path / "out", os.O_RDONLY) as answers, Pipe(tmp_path / "in", os.O_WRONLY) as writer:
            await writer.write(b"x")
            assert await answers.read(1) == b"x"
            now = proxy.env.loop.time()
            proxy.listeners["in"].tick(now)
            proxy.listeners["in"].tick(now + 6)
            assert not list(proxy.sessions())


async def test_pipes_that_were_there_stay_and_other_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    async with running(config(clusters=[echo()], listeners=[pipe(tmp_path)])) as proxy:
        assert proxy.listeners["in"].listening
        await proxy.apply(config(clusters=[echo()], listeners=[pipe(tmp_path, options={"track": 1})]))
        with Pipe(tmp_path / "out", os.O_RDONLY) as answers, Pipe(tmp_path / "in", os.O_WRONLY) as writer:
            await writer.write(b"x")
            assert await answers.read(1) == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    (tmp_path / "in").unlink()
    (tmp_path / "in").write_text("precious")
    async with running() as other:
        with pytest.raises(Error, match="no named pipe"):
            await other.apply(config(clusters=[echo()], listeners=[pipe(tmp_path)]))
    assert (tmp_path / "in").read_text() == "precious"


def test_the_strict_check_names_what_is_wrong() -> None:
    assert not PipeListener.check({"protocol": "PIPE", "filename": "/tmp/a", "reply": "/tmp/b", "framing": "lines"})
    assert "needs 'filename'" in str(PipeListener.check({"protocol": "PIPE"})[0])
    assert "expected a path" in str(PipeListener.check({"protocol": "PIPE", "filename": "a", "reply": 5})[0])


async def test_a_pipe_that_somebody_put_in_the_place_of_ours_stays(tmp_path: Path) -> None:
    name = tmp_path / "pipe"
    conf = config(clusters=[echo()], listeners=[{"name": "in", "spec": {"protocol": "PIPE", "filename": str(name)}, "rules": []}])
    async with running(conf) as proxy:
        name.unlink()
        name.write_text("somebody else's")
        await proxy.apply(config())
        await wait_until(lambda: not proxy.draining)
    assert name.read_text() == "somebody else's"
