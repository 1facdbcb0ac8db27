"""The daemon behind `carrier2`, driven as Gefyra's operator drives it: through a busybox shell, a file and a signal."""

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from carrier.cli.client import Client
from carrier.cli.main import main
from carrier.gefyra.daemon import LogFile, Paths, request_id
from tests.carrier.gefyra.operator import Pod, accepted
from tests.ports import free_port
from tests.support import http, tcp, tcp_server

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")


@pytest.fixture
async def pod(tmp_path):
    found = Pod(tmp_path)
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            if found.pid:
                os.kill(found.pid, signal.SIGKILL)


async def answering(peer):
    while True:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nshadow")


def bridges(count, endpoint="127.0.0.1:1"):
    return {
        f"user-{i}": {"endpoint": endpoint, "rules": [{"match": [{"matchHeader": {"name": "x-gefyra", "value": f"peer{i}"}}]}]}
        for i in range(count)
    }


def configured(pod, port, upstream, count=1, **more):
    proxy = {"port": port, "clusterUpstream": [f"127.0.0.1:{upstream}"], "bridges": bridges(count)}
    return {"version": 1, "threads": 4, "error_log": str(pod.log), "proxy": [proxy], **more}


async def test_a_commit_is_accepted_the_first_time_and_the_next_one_in_place(pod):
    port = free_port()
    async with tcp_server(answering) as shadow:
        probes = {"httpGet": [free_port(), free_port()]}
        said = await pod.commit(configured(pod, port, shadow.port, probes=probes))
        if not accepted(said):  # a busy machine starts Python late; the operator asks again
            await pod.until("Bootstrap starting")
            said = await pod.commit(configured(pod, port, shadow.port, probes=probes))
        assert accepted(said)
        pid = pod.pid
        log = await pod.until("Bootstrap starting")
        assert (await http(port))[2] == b"shadow"
        assert (await http(probes["httpGet"][1]))[0] == 200
        assert accepted(await pod.commit(configured(pod, port, shadow.port, 2, probes=probes)))
        assert pod.pid == pid
        log = pod.log.read_text()
        assert f"Configured httpGet (scheme HTTP) probe ports: [Number({probes['httpGet'][0]}), Number({probes['httpGet'][1]})]" in log


async def started(pod, port, upstream, count=1):
    """A daemon with its configuration in force."""
    for _ in range(5):
        if accepted(await pod.commit(configured(pod, port, upstream, count))):
            return
    raise AssertionError(pod.log.read_text())


async def test_tunnels_and_downloads_survive_twenty_reloads_and_no_request_is_refused(pod):
    port = free_port()
    size = 4_000_000

    async def serve(peer):
        head = await peer.reader.readuntil(b"\r\n\r\n")
        if b"/tunnel" in head:
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
            while data := await peer.reader.read(100):
                peer.send(data)
        elif b"/download" in head:
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(20):
                peer.send(b"x" * (size // 20))
                await more.get()
        else:
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")

    more = asyncio.Queue()
    async with tcp_server(serve) as shadow:
        await started(pod, port, shadow.port)
        async with tcp(port) as tunnel, tcp(port) as download:
            tunnel.send(b"GET /tunnel HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
            assert (await tunnel.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            download.send(b"GET /download HTTP/1.1\r\nhost: x\r\n\r\n")
            await download.reader.readuntil(b"\r\n\r\n")
            body = asyncio.create_task(download.reader.readexactly(size))
            done = asyncio.Event()
            load = asyncio.create_task(asking(port, done))
            for i in range(20):
                said = await pod.commit(configured(pod, port, shadow.port, 2 + i % 2))
                assert accepted(said), said
                more.put_nowait(None)
                tunnel.send(b"%4d" % i)
                assert await tunnel.read(4) == b"%4d" % i
            assert len(await asyncio.wait_for(body, 10)) == size
            done.set()
            assert await load > 20


async def asking(port, done):
    """Request after request, each on a connection of its own; how many were answered. Any that is not raises."""
    count = 0
    while not done.is_set():
        assert (await http(port))[0] == 200
        count += 1
    return count


CGROUP = Path("/sys/fs/cgroup/cpu/carrier2-test")


@pytest.fixture
def tenth():
    """A control group with a tenth of a CPU."""
    try:
        CGROUP.mkdir()
        (CGROUP / "cpu.cfs_period_us").write_text("100000")
        (CGROUP / "cpu.cfs_quota_us").write_text("10000")
    except OSError as exc:
        pytest.skip(f"no control group for the CPU can be made here: {exc.strerror}")
    try:
        yield CGROUP / "cgroup.procs"
    finally:
        for number in (CGROUP / "cgroup.procs").read_text().split():
            (CGROUP.parent / "cgroup.procs").write_text(number)
        CGROUP.rmdir()


async def test_a_tenth_of_a_cpu_is_enough_for_twenty_bridges(pod, tenth):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await started(pod, port, shadow.port, 19)
        tenth.write_text(str(pod.pid))
        took = []
        for i in range(4):
            assert accepted(await pod.commit(configured(pod, port, shadow.port, 20 + i % 2)))
            took.append(pod.took)
            assert pod.used <= 0.08  # a tenth of 0.8 s
        assert min(took) <= 0.8  # as above


async def test_what_is_wrong_is_said_in_time_and_what_was_there_goes_on(pod):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await started(pod, port, shadow.port)
        for bad, reason in (
            ("proxy: [{port: 80, clusterUpstream: [", "not YAML"),
            ("proxy: [{port: eighty}]", "cannot be"),
            ("proxy: [{port: 8080, tls: {certificate: /no/cert.pem, key: /no/key.pem}}]", "/no/key.pem"),
            (f"proxy: [{{port: {port}}}, {{port: {shadow.port}}}]", "Could not bind"),
        ):
            said = await pod.commit(bad)
            assert not accepted(said)
            assert reason in said
            assert pod.took < 1.0
            assert (await http(port))[2] == b"shadow"
        assert accepted(await pod.commit(configured(pod, port, shadow.port)))


async def test_names_that_nobody_knows_and_dead_endpoints_refuse_nothing(pod):
    port, dead = free_port(), free_port()
    async with tcp_server(answering) as shadow:
        text = configured(pod, port, shadow.port)
        text["proxy"][0]["bridges"] = {
            "gone": {"endpoint": "gefyra-stowaway-proxy-10001.gefyra.svc.invalid:10001", "rules": [{"match": []}]}
        }
        text["proxy"].append({"port": dead, "clusterUpstream": ["no-such-service.invalid:80"]})
        for _ in range(5):
            if accepted(said := await pod.commit(text)):
                break
        assert accepted(said)
        status, fields, body = await http(port)
        assert (status, body, fields["x-carrier-fallback"]) == (200, b"shadow", "dns")
        assert (await http(dead))[0] == 503


async def test_certificates_change_in_place_and_a_bad_one_leaves_the_old(pod):
    ca = trustme.CA()
    client = ssl.create_default_context()
    ca.configure_trust(client)
    tls = {"certificate": str(pod.folder / "c.pem"), "key": str(pod.folder / "k.pem"), "sni": "app.test"}

    def issue(name):
        made = ca.issue_cert(name)
        made.cert_chain_pems[0].write_to_path(tls["certificate"])
        made.private_key_pem.write_to_path(tls["key"])

    async def subject(port, name):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    shadow_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("inner.test").configure_cert(shadow_tls)
    asked = []
    shadow_tls.sni_callback = lambda _, name, __: asked.append(name)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nshadow")
        await writer.drain()
        writer.close()

    port = free_port()
    shadow = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=shadow_tls)
    try:
        issue("old.test")
        config = {"proxy": [{"port": port, "tls": tls, "clusterUpstream": [f"127.0.0.1:{shadow.sockets[0].getsockname()[1]}"]}]}
        for _ in range(5):
            if accepted(await pod.commit(config)):
                break
        assert "Running with tls config" in await pod.until("Bootstrap starting")
        assert (await subject(port, "old.test")).endswith(b"shadow")
        assert set(asked) == {"app.test"}  # re-encrypted, by the name of the file; the certificate is not checked, as upstream does not
        issue("new.test")
        assert accepted(await pod.commit(config))
        assert (await subject(port, "new.test")).endswith(b"shadow")
        Path(tls["certificate"]).write_text("nonsense")
        assert accepted(await pod.commit(config))
        assert "the old certificate stays in force" in pod.log.read_text()
        assert (await subject(port, "new.test")).endswith(b"shadow")
    finally:
        shadow.close()


async def test_without_its_file_it_is_idle_and_ready_when_the_file_comes(pod):
    port = free_port()
    foreground = await asyncio.create_subprocess_exec(
        "busybox", "sh", "-c", f"exec carrier2 -c {pod.config}", stderr=-1, env=pod.environment
    )
    try:
        await pod.until("Idle mode")
        async with tcp_server(answering) as shadow:
            said = f"proxy: [{{port: {port}, clusterUpstream: ['127.0.0.1:{shadow.port}']}}]"
            pod.config.write_text(said)
            await pod.until("Bootstrap starting")
            assert (await http(port))[2] == b"shadow"
            assert accepted(await pod.commit(said))
            foreground.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(foreground.wait(), 10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            foreground.kill()


async def test_status_and_probe_know_the_bridges_of_the_file_and_their_users(pod, capsys):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await pod.commit(configured(pod, port, shadow.port, count=2))
        await pod.until("Bootstrap starting")
        carrier = Client(str(pod.folder / "carrier2-api.sock"))
        await http(port, headers={"x-gefyra": "peer1"})
        status = await asyncio.to_thread(carrier.call, "GET", "status")
        assert [(bridge["name"], bridge["user"], bridge["hits"]) for bridge in status["bridges"]] == [
            (f"{port}/user-0", "user-0", 0),
            (f"{port}/user-1", "user-1", 1),
        ]
        users = [rule["user"] for rule in status["listeners"][0]["rules"]]
        assert users == ["", "", "user-0", "user-1", ""] and status["file"] == str(pod.config)
        probed = await asyncio.to_thread(carrier.call, "POST", f"bridges/{port}%2Fuser-0/probe")
        assert not probed["endpoints"][0]["reachable"]
        for action in ("rm", "renew"):
            typed = ["bridges", action, f"{port}/user-0", "--admin", str(pod.folder / "carrier2-api.sock")]
            assert await asyncio.to_thread(main, typed) == 1
            assert f"bridge '{port}/user-0' is the configuration file's: change it there" in capsys.readouterr().err


async def test_requests_that_name_themselves_are_in_the_log(pod):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await started(pod, port, shadow.port)
        await http(port, headers={"opc-request-id": "abc-1"})
        await http(port, headers={"x-gefyra": "peer0", "request-id": "r2"})
        log = await pod.until("(request-id:r2) Selected GefyraClient")
        assert "(opc-request-id:abc-1)" in log


async def test_help_and_bad_usage(pod):
    assert "Command-line options" in await pod.type("carrier2 --help\n")
    said = await pod.type("carrier2 --what; echo $?\n")
    assert "unexpected argument '--what'" in said
    assert said.endswith("2\n")


async def test_a_pid_file_of_an_earlier_life_names_nobody(pod):
    """After a restart of the container the number may be anybody's: that process is left alone."""
    other = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        (pod.folder / "carrier2.pid").write_text(f"{other.pid}\n")
        await pod.type(f"carrier2 -c {pod.config} -u -d\n")
        assert other.returncode is None
        assert pod.pid != other.pid
        await pod.until("Server starting")
    finally:
        other.kill()
        await other.wait()


async def test_a_daemon_that_was_killed_and_that_nobody_buries_is_replaced(pod):
    """The first process of the app's container may be one that never asks after its orphans: they keep number and name."""
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        (pod.folder / "carrier2.pid").write_text(f"{dead.pid}\n")
        await pod.type(f"carrier2 -c {pod.config} -u -d\n")
        assert pod.pid != dead.pid
        await pod.until("Server starting")


def test_the_log_file_begins_anew_before_it_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("carrier.gefyra.daemon.LOG_LIMIT", 100)
    log = LogFile(echo=False)
    log.open(str(tmp_path / "log"))
    for i in range(50):
        log(f"line {i}\n")
    log.close()
    assert "line 49" in (tmp_path / "log").read_text()
    assert (tmp_path / "log").stat().st_size < 150


def test_a_question_that_is_just_being_written_is_none(tmp_path):
    paths = Paths(str(tmp_path))
    assert paths.asked() is None
    for text, found in (
        ("", None),
        ("12-3 info /tmp/a", None),
        ("12-3 info\n", None),
        ("12-3 info /tmp/a b\n", ("12-3", "info", "/tmp/a b")),
    ):
        paths.ask.write_text(text)
        assert paths.asked() == found


def test_the_first_name_in_upstreams_order_is_the_requests_name():
    fields = [(b"Request-Id", b"two"), (b"opc-request-id", b"one" * 200)]
    assert request_id(fields) == "opc-request-id:" + ("one" * 200)[:200]
    assert request_id([(b"x", b"y")]) == ""


def test_an_answer_is_whole(tmp_path):
    paths = Paths(str(tmp_path))
    paths.answer("w", "one reason\n")
    assert paths.ack.read_text() == "w refused\none reason\n"
    paths.answer("v")
    assert paths.ack.read_text() == "v ok\n"
    assert list(tmp_path.iterdir()) == [paths.ack]
