"""Names that two sessions could have: who is live or remembered keeps its own, the later one gets a number."""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

from carrier.core.names import TICK, Names
from carrier.core.stream import CONNECTED, DESTROYED
from tests.ports import free_port
from tests.sockets import client as unix
from tests.support import config, echo, listener, port_of, running, tcp, udp, wait_until, without


class Known:
    """What is asked of a session."""

    def __init__(self, status: str = CONNECTED, ended_at: float = 0.0, track: float = 0.0) -> None:
        self.status = status
        self.ended_at = ended_at
        self.listener = SimpleNamespace(track=track)


def given(names: Names, session: Any, name: str = "TCP:a-b") -> str:
    return names.give(session, name)


def test_the_first_has_the_name_and_the_others_a_number() -> None:
    names, live = Names(), [Known() for _ in range(3)]
    assert [given(names, one) for one in live] == ["TCP:a-b", "TCP:a-b_1", "TCP:a-b_2"]
    assert given(names, Known(), "TCP:a-c") == "TCP:a-c"


def test_a_name_is_free_again_when_its_session_is_no_more_listed() -> None:
    names = Names()
    first = Known()
    assert given(names, first) == "TCP:a-b"
    first.status, first.ended_at = DESTROYED, monotonic()
    second = Known()
    assert given(names, second) == "TCP:a-b"
    del second
    gc.collect()
    assert not names.held


def test_a_remembered_session_keeps_its_name_until_its_time_is_over() -> None:
    names, remembered = Names(), Known(DESTROYED, monotonic(), track=60)
    assert given(names, remembered) == "TCP:a-b"
    another = Known()
    assert given(names, another) == "TCP:a-b_1"
    remembered.ended_at -= 60 + TICK
    third = Known()
    assert given(names, third) == "TCP:a-b" and given(names, Known()) == "TCP:a-b_2"


async def test_a_client_that_comes_again_from_its_port_is_another_session_which_can_be_named() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", options={"track": 60})])) as proxy:
        port, own = port_of(proxy, "in"), free_port()
        async with tcp(port, local=own) as client:
            client.reset()
            await wait_until(lambda: [s.status for s in proxy.sessions()] == [DESTROYED])
        name = f"TCP:127.0.0.1:{own}-127.0.0.1:{port}"
        first = proxy.find_session(name)
        async with tcp(port, local=own) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"
            second = proxy.find_session(f"{name}_1")
            assert first is proxy.find_session(name) and second is not None and second.status == CONNECTED
            assert second.metadata["name"] == second.dump()["name"] == f"{name}_1"
            second.kill()
            assert await client.read_all() == b""


async def test_a_listener_that_is_posted_again_does_not_name_its_sessions_like_those_that_live_on(tmp_path: Path) -> None:
    def conf(name: str) -> Any:
        spec = {"protocol": "UnixDomainSocket", "filename": str(tmp_path / name)}
        rules = [{"action": {"route": {"destination": "echo"}}}]
        return config(clusters=[echo()], listeners=[{"name": "in", "spec": spec, "rules": rules}])

    async with running(conf("old")) as proxy:
        with unix(tmp_path / "old") as one:
            await one.send(b"hello")
            assert await one.read() == b"hello"
            assert [s.name for s in proxy.sessions()] == ["UNIX:in-0"]
            await proxy.apply(conf("new"))
            with unix(tmp_path / "new") as other:
                await other.send(b"hello")
                assert await other.read() == b"hello"
                assert sorted(s.name for s in proxy.sessions()) == ["UNIX:in-0", "UNIX:in-0_1"]


async def test_a_udp_peer_of_a_listener_that_is_posted_again_has_a_name_of_its_own() -> None:
    def conf(answer_timeout: int, base: Any = None) -> Any:
        options = {"track": 60, "answer_timeout": answer_timeout}
        return config(clusters=[echo()], listeners=[listener("in", protocol="UDP", port=port, options=options)], base=base)

    port = free_port(socket.SOCK_DGRAM)
    async with running(conf(5)) as proxy, udp(port) as client:
        client.send(b"one")
        assert await client.read() == b"one"
        (first,) = proxy.sessions()
        first.kill()
        await proxy.apply(without(proxy.config, "listener", "in"))
        await proxy.apply(conf(5, proxy.config))
        client.send(b"two")
        assert await client.read() == b"two"
        assert {s.name.rpartition("-")[2] for s in proxy.sessions()} == {"0", "0_1"}
