"""PIPE cluster: a named pipe as upstream, with and without answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clusters.pipe import PipeCluster
from tests.sockets import Pipe, is_reset
from tests.support import config, listener, port_of, running, tcp, udp, wait_until


def pipe_cluster(path: Path, reply: bool = True, **spec: Any) -> dict[str, Any]:
    """A cluster that writes to `path`/in and reads `path`/out, which are made."""
    for name in ("in", "out"):
        os.mkfifo(path / name)
    made = {"protocol": "PIPE", **({"reply": str(path / "out")} if reply else {}), **spec}
    return {"name": "up", "spec": made, "endpoints": [{"spec": {"address": str(path / "in")}}]}


async def test_a_program_behind_two_pipes_is_an_upstream(tmp_path: Path) -> None:
    conf = config(clusters=[pipe_cluster(tmp_path)], listeners=[listener("in", "up", options={"track": 60})])
    async with running(conf) as proxy:
        with Pipe(tmp_path / "in", os.O_RDONLY) as program:
            async with tcp(port_of(proxy, "in")) as client:
                client.send(b"ask")
                assert await program.read(3) == b"ask"
                await is_reset(port_of(proxy, "in"))  # whose answer would it be?
                with Pipe(tmp_path / "out", os.O_WRONLY) as answers:
                    await answers.write(b"answer")
                    client.end()
                    assert await program.read(1) == b""
                assert await client.read_all() == b"answer"
            await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")
        assert sorted(s.error.kind for s in proxy.sessions() if s.error) == ["overload"]


async def test_without_answers_many_sessions_write_whole_lines(tmp_path: Path) -> None:
    up = pipe_cluster(tmp_path, reply=False, framing="lines")
    async with running(config(clusters=[up], listeners=[listener("in", "up", protocol="UDP")])) as proxy:
        with Pipe(tmp_path / "in", os.O_RDONLY) as program:
            async with udp(port_of(proxy, "in")) as one, udp(port_of(proxy, "in")) as two:
                one.send(b"one")
                assert await program.read(4) == b"one\n"
                two.send(b"two")
                assert await program.read(4) == b"two\n"


async def test_a_session_without_answers_ends_with_its_source(tmp_path: Path) -> None:
    conf = config(clusters=[pipe_cluster(tmp_path, reply=False)], listeners=[listener("in", "up")])
    async with running(conf) as proxy:
        with Pipe(tmp_path / "in", os.O_RDONLY) as program:
            async with tcp(port_of(proxy, "in")) as client:
                client.send(b"bye")
                client.end()
                assert await client.read_all() == b""
                assert await program.read(4) == b"bye"
            assert not list(proxy.sessions())


async def test_a_pipe_that_nobody_reads_is_a_refused_upstream(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = pipe_cluster(tmp_path)
    for name, text in (("in", "nobody reads it"), ("file", "no named pipe"), ("missing", "No such file")):
        made["endpoints"] = [{"spec": {"address": str(tmp_path / name)}}]
        async with running(config(clusters=[made], listeners=[listener("in", "up", options={"track": 60})])) as proxy:
            await is_reset(port_of(proxy, "in"))
            (session,) = proxy.sessions()
            assert session.error is not None and session.error.kind == "refused" and text in session.error.detail


async def test_a_program_that_goes_away_is_told_to_the_downstream(tmp_path: Path) -> None:
    conf = config(clusters=[pipe_cluster(tmp_path, reply=False)], listeners=[listener("in", "up", options={"track": 60})])
    async with running(conf) as proxy:
        program = Pipe(tmp_path / "in", os.O_RDONLY)
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            assert await program.read(1) == b"x"
            program.close()
            client.send(b"y")
            await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")
        (session,) = proxy.sessions()
        assert session.error is not None and session.error.kind == "reset"


def test_the_strict_check_wants_a_path() -> None:
    assert not PipeCluster.check({"protocol": "PIPE"})
    assert "expected a path" in str(PipeCluster.check({"protocol": "PIPE", "reply": 5})[0])
