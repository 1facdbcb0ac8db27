"""Logger: what passes is written, as l7mp writes it, and never stops the stream."""

from __future__ import annotations

import os
import sys

import pytest

from carrier.errors import Error
from tests.support import ask, config, echo, listener, port_of, running, tcp, udp, wait_until
from transforms.logger import LoggerCluster


def logger(file, prefix="", name="log"):
    return {"name": name, "spec": {"protocol": "Logger", "log_file": str(file), "log_prefix": prefix}}


def logged(*loggers, protocol="TCP", **route):
    return config(clusters=[echo(), *loggers], listeners=[listener("in", protocol=protocol, **route)])


async def test_the_payload_is_written_as_it_is_and_passed_on(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file), ingress=["log"])) as proxy:
        assert await ask(port_of(proxy, "in"), b"\x00binary\xff") == b"\x00binary\xff"
    assert file.read_bytes() == b"\x00binary\xff"


async def test_a_prefix_stands_before_every_message(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file, "out"), protocol="UDP", egress=["log"])) as proxy, udp(port_of(proxy, "in")) as client:
        for data in (b"one", b"two"):
            client.send(data)
            assert await client.read() == data
    assert file.read_bytes() == b"out: oneout: two"


async def test_both_directions_have_a_log_of_their_own(tmp_path):
    up, down = tmp_path / "up", tmp_path / "down"
    loggers = logger(up, "up", "to"), logger(down, "down", "from")
    async with running(logged(*loggers, ingress=["to"], egress=["from"])) as proxy:
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
    assert (up.read_bytes(), down.read_bytes()) == (b"up: x", b"down: x")


async def test_each_session_begins_the_file_anew(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file), ingress=["log"])) as proxy:
        await ask(port_of(proxy, "in"), b"first session")
        await ask(port_of(proxy, "in"), b"second")
    assert file.read_bytes() == b"second"


async def test_a_dash_is_standard_output(capfdbinary):
    async with running(logged(logger("-", "log"), ingress=["log"])) as proxy:
        await ask(port_of(proxy, "in"), b"hello\n")
    sys.stdout.flush()
    assert b"log: hello\n" in capfdbinary.readouterr().out


async def test_an_unwritable_file_refuses_the_configuration(tmp_path):
    async with running() as proxy:
        with pytest.raises(Error, match="cannot write"):
            await proxy.apply(logged(logger(tmp_path / "no" / "such" / "directory"), ingress=["log"]))
        assert not proxy.listeners


async def test_a_file_that_stops_being_writable_costs_the_log_and_not_the_session(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file), ingress=["log"])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"a")
        assert await client.read(1) == b"a"
        (session,) = proxy.sessions()
        session.hops[0].out.close()
        client.send(b"b")
        assert await client.read(1) == b"b"
        assert [event[2] for event in session.events if event[0] == "ERROR"] == ["Logger"]


async def test_a_file_that_is_gone_when_a_session_comes_fails_that_session(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    conf = logged(logger(directory / "log"), ingress=["log"])
    async with running(conf) as proxy:
        (directory / "log").unlink()
        directory.rmdir()
        async with tcp(port_of(proxy, "in")) as client:
            with pytest.raises(ConnectionResetError):
                assert await client.read_all()
        await wait_until(lambda: not proxy.listeners["in"].live)
        assert proxy.listeners["in"].failed == 1


def descriptors(file) -> int:
    """How many descriptors of this process lead to `file`."""
    found = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(fd) and os.readlink(fd) == str(file) for fd in found)


@pytest.mark.parametrize("end", ["close", "kill", "reset"])
async def test_the_file_is_closed_however_a_session_ends(tmp_path, end):
    file = tmp_path / "log"
    async with running(logged(logger(file), ingress=["log"])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x")
        assert await client.read(1) == b"x"
        assert descriptors(file) == 1
        if end == "kill":
            next(proxy.sessions()).kill()
        elif end == "reset":
            client.reset()
        else:
            client.end()
        await wait_until(lambda: not proxy.listeners["in"].live)
        assert descriptors(file) == 0


def test_a_spec_is_checked():
    assert [p.path for p in LoggerCluster.check({"protocol": "Logger", "log_file": "/no/such/file", "colour": 1}, "$")] == [
        "$.colour",
        "$.log_file",
    ]
    for field in ("log_file", "log_prefix"):
        (problem,) = LoggerCluster.check({"protocol": "Logger", field: 5}, "$")
        assert str(problem) == f"$.{field}: expected text, got 5 (allowed: text)"
