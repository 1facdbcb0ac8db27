"""Logger: what passes is written, as l7mp writes it, and never stops the stream."""

from __future__ import annotations

import contextlib
import os

import pytest

from carrier.errors import Error
from tests.support import ask, config, echo, listener, port_of, running, tcp, udp, wait_until
from transforms.logger import LoggerCluster


def logger(file, prefix="", name="log"):
    return {"name": name, "spec": {"protocol": "Logger", "log_file": str(file), "log_prefix": prefix}}


def logged(*loggers, protocol="TCP", **route):
    return config(clusters=[echo(), *loggers], listeners=[listener("in", protocol=protocol, **route)])


async def holds(file, data):
    await wait_until(lambda: file.read_bytes() == data, f"for {data}")


async def test_the_payload_is_written_as_it_is_and_passed_on(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file), ingress=["log"])) as proxy:
        assert await ask(port_of(proxy, "in"), b"\x00binary\xff") == b"\x00binary\xff"
    await holds(file, b"\x00binary\xff")


async def test_a_prefix_stands_before_every_message(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file, "out"), protocol="UDP", egress=["log"])) as proxy, udp(port_of(proxy, "in")) as client:
        for data in (b"one", b"two"):
            client.send(data)
            assert await client.read() == data
    await holds(file, b"out: oneout: two")


async def test_both_directions_have_a_log_of_their_own(tmp_path):
    up, down = tmp_path / "up", tmp_path / "down"
    loggers = logger(up, "up", "to"), logger(down, "down", "from")
    async with running(logged(*loggers, ingress=["to"], egress=["from"])) as proxy:
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
    await holds(up, b"up: x")
    await holds(down, b"down: x")


async def test_each_session_begins_the_file_anew(tmp_path):
    file = tmp_path / "log"
    async with running(logged(logger(file), ingress=["log"])) as proxy:
        await ask(port_of(proxy, "in"), b"first session")
        await ask(port_of(proxy, "in"), b"second")
    await holds(file, b"second")


async def test_a_dash_is_standard_output(capfdbinary):
    async with running(logged(logger("-", "log"), ingress=["log"])) as proxy:
        await ask(port_of(proxy, "in"), b"hello\n")
    seen = b""

    def came():
        nonlocal seen
        seen += capfdbinary.readouterr().out
        return b"log: hello\n" in seen

    await wait_until(came)


async def test_an_unwritable_file_refuses_the_configuration(tmp_path):
    async with running() as proxy:
        with pytest.raises(Error, match="cannot write"):
            await proxy.apply(logged(logger(tmp_path / "no" / "such" / "directory"), ingress=["log"]))
        assert not proxy.listeners


async def test_a_file_that_takes_no_more_costs_the_log_and_not_the_session():
    async with running(logged(logger("/dev/full"), ingress=["log"])) as proxy, tcp(port_of(proxy, "in")) as client:
        said = []
        proxy.env.warn = lambda event, /, **values: said.append((event, values))
        client.send(b"a")
        assert await client.read(1) == b"a"
        log = proxy.clusters["log"]
        await wait_until(lambda: log.limited == {"log": 1})
        client.send(b"b")
        assert await client.read(1) == b"b"
        (session,) = proxy.sessions()
        assert [event[2] for event in session.events if event[0] == "ERROR"] == ["Logger"]
        log.tick(0)
        log.tick(0)
        ((event, values),) = said
        assert event == "what a Logger was to write is lost" and values["reason"] == "No space left on device"


async def test_a_named_pipe_that_nobody_reads_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    async with running(logged(logger(tmp_path / "pipe"), ingress=["log"])) as proxy:
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        assert proxy.clusters["log"].limited == {"log": 1}


async def test_a_named_pipe_that_is_held_and_not_read_stops_nobody_and_what_is_beyond_the_bound_is_counted(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)
    async with running(logged(logger(tmp_path / "pipe"), ingress=["log"])) as proxy, tcp(port_of(proxy, "in")) as client:
        log = proxy.clusters["log"]
        log.writer.most = 1 << 20
        for _ in range(40):
            client.send(b"x" * 65536)
            assert await client.read(65536) == b"x" * 65536
        assert log.limited["log"] > 0
        assert log.writer.put_in - log.writer.done <= 1 << 20
        await proxy.apply(config(clusters=[echo()]))  # and nobody waits when it goes
    os.close(held)


async def test_files_of_sessions_that_nobody_writes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.logger.MOST", 3)
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)
    async with running(logged(logger(tmp_path / "pipe"), ingress=["log"])) as proxy:
        for _ in range(8):
            assert await ask(port_of(proxy, "in"), b"x" * 65536) == b"x" * 65536
        assert descriptors(tmp_path / "pipe") <= 1 + 4
        os.set_blocking(held, False)

        def closed():
            with contextlib.suppress(BlockingIOError):
                os.read(held, 65536)
            return descriptors(tmp_path / "pipe") == 1

        await wait_until(closed, "for the files to be closed")
    os.close(held)


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
        await wait_until(lambda: descriptors(file) == 1)
        if end == "kill":
            next(proxy.sessions()).kill()
        elif end == "reset":
            client.reset()
        else:
            client.end()
        await wait_until(lambda: not proxy.listeners["in"].live)
        await wait_until(lambda: descriptors(file) == 0)


def test_a_check_makes_nothing(tmp_path):
    assert LoggerCluster.check({"protocol": "Logger", "log_file": str(tmp_path / "new")}, "$") == []
    assert list(tmp_path.iterdir()) == []


def test_a_spec_is_checked():
    assert [p.path for p in LoggerCluster.check({"protocol": "Logger", "log_file": "/no/such/file", "colour": 1}, "$")] == [
        "$.colour",
        "$.log_file",
    ]
    for field in ("log_file", "log_prefix"):
        (problem,) = LoggerCluster.check({"protocol": "Logger", field: 5}, "$")
        assert str(problem) == f"$.{field}: expected text, got 5 (allowed: text)"
