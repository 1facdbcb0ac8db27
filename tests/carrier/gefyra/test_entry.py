"""The container's first process, and what a daemon has of its last life in the pod: killed, restarted, ended in order."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import carrier.cli.carrierctl as ctl
from tests.carrier.gefyra.operator import SCRIPT, Pod, accepted
from tests.carrier.gefyra.test_daemon import answering, configured, started
from tests.ports import free_port
from tests.support import http, tcp_server

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
ENTRY = Path(__file__).resolve().parents[3] / "deploy" / "image" / "entry"
BRIDGE = {"user": "john", "endpoint": "127.0.0.1:1", "rules": [{"match": [{"matchHeader": {"name": "x-user", "value": "john"}}]}]}


class Container:
    """A folder in place of /tmp, which goes with the container, and one in place of /dev/shm, which does not."""

    def __init__(self, folder):
        self.run, self.shared = folder / "tmp", folder / "shm"
        self.shared.mkdir()
        self.process = None

    async def start(self, **environment):
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir()
        self.pod = Pod(self.run)
        found = {**self.pod.environment, "CARRIER_KEEP_DIR": str(self.shared), "CARRIER2": str(SCRIPT / "carrier2"), **environment}
        self.process = await asyncio.create_subprocess_exec(
            "busybox", "sh", str(ENTRY), env=found, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        await self.until(lambda: self.call("GET", "listeners") is not None)

    async def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    def call(self, method, path, body=None):
        """The answer of the REST API, or None."""
        try:
            data = b"" if body is None else json.dumps(body).encode()
            status, _, text = ctl.call(str(self.run / "carrier2-api.sock"), method, path, data)
        except (OSError, ValueError):
            return None
        return json.loads(text) if status == 200 else {"status": status, "text": text}

    async def until(self, look, patience=10.0):
        deadline = time.monotonic() + patience
        while not (found := look()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        return found

    def bridges(self):
        return [one["name"] for one in self.call("GET", "bridges") or []]


@pytest.fixture
async def container():
    folder = Path(tempfile.mkdtemp(prefix="c2-"))  # short: names of unix sockets have 107 bytes at most
    found = Container(folder)
    try:
        yield found
    finally:
        if found.process is not None:
            await found.kill()
        shutil.rmtree(folder)


def mounted(port, upstream, **bridges):
    document = {"version": 1, "proxy": [{"port": port, "clusterUpstream": [f"127.0.0.1:{upstream}"]}]}
    return {"document": document, "bridges": {name.replace("_", "."): {"port": port, **body} for name, body in bridges.items()}}


async def test_a_proxy_that_is_killed_is_back_within_a_second_with_its_bridges(container):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await container.start()
        assert container.call("PUT", "mount", mounted(port, shadow.port, john_1=BRIDGE))["given"] == ["john.1"]
        before = container.pod.pid
        os.kill(before, signal.SIGKILL)
        began = time.monotonic()
        await container.until(lambda: container.bridges() == ["john.1"] and container.pod.pid != before)
        assert time.monotonic() - began < 15
        assert container.pod.processor() < 1  # seconds that it needed for that, however busy the machine is
        assert container.process.returncode is None
        assert (await http(port))[2] == b"shadow"


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("sh", ("-c", "echo drained; exit 3"), (3, "drained\n", "")),
        ("bash", ("-euo", "pipefail", "-c", "sleep 0.01"), (0, "", "")),
        (
            "python3",
            ("drain.py",),
            (127, "", "python3: not here: while this container is bridged it runs Carrier2, and has a shell besides\n"),
        ),
    ],
)
async def test_hooks_of_the_app_and_whoever_looks_in_get_a_shell_and_no_second_proxy(container, tmp_path, name, arguments, answer):
    """preStop: `sh -c "sleep 10"`. A second proxy would not end, nor would the pod before its time is over."""
    await container.start()
    (tmp_path / name).symlink_to(ENTRY)
    process = await asyncio.create_subprocess_exec(
        str(tmp_path / name),
        *arguments,
        env=container.pod.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(10):
            out, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, out.decode(), err.decode()) == answer
    assert container.call("GET", "listeners") is not None


async def test_a_container_that_begins_anew_has_what_its_pod_kept(container):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await container.start()
        container.call("PUT", "mount", {**mounted(port, shadow.port, john_1=BRIDGE), "files": {"from_k8s_secret_key_all.pem": "KEY"}})
        await container.kill()
        await container.start()
        await container.until(lambda: container.bridges() == ["john.1"])
        assert container.call("GET", "mount")["mounted"] is True
        assert (container.run / "from_k8s_secret_key_all.pem").read_text() == "KEY"
        assert list(yaml.safe_load((container.run / "config.yaml").read_text())["proxy"][0]["bridges"]) == ["john"]
        assert (await http(port))[2] == b"shadow"


async def test_a_file_that_says_something_else_than_what_was_kept_wins(container):
    port, other = free_port(), free_port()
    async with tcp_server(answering) as shadow:
        await container.start()
        container.call("PUT", "mount", mounted(port, shadow.port, john_1=BRIDGE))
        os.kill(container.process.pid, signal.SIGSTOP)  # nobody starts the daemon again for a moment
        os.kill(container.pod.pid, signal.SIGKILL)
        (container.run / "config.yaml").write_text(f"proxy: [{{port: {other}, clusterUpstream: ['127.0.0.1:{shadow.port}']}}]")
        os.kill(container.process.pid, signal.SIGCONT)
        await container.until(lambda: [one["name"] for one in container.call("GET", "listeners") or []][:1] == [f"port/{other}"])
        assert container.bridges() == []


async def test_a_pod_that_is_to_end_accepts_for_two_seconds_more_and_ends_in_order(container):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await container.start()
        container.call("PUT", "mount", mounted(port, shadow.port))
        container.process.terminate()
        began, refused = time.monotonic(), 0.0
        while container.process.returncode is None:
            try:
                assert (await http(port))[2] == b"shadow"
            except (OSError, EOFError):
                refused = refused or time.monotonic() - began
            await asyncio.sleep(0.05)
        assert 1.8 < (refused or time.monotonic() - began) < 4
        assert await container.process.wait() == 0


async def test_how_long_it_accepts_can_be_said(container):
    await container.start(CARRIER_ACCEPTING="0")
    began = time.monotonic()
    container.process.terminate()
    assert await asyncio.wait_for(container.process.wait(), 5) == 0
    assert time.monotonic() - began < 1.5


async def test_a_proxy_that_cannot_start_is_started_again_and_again_but_not_in_a_hurry(container):
    container.run.mkdir()
    counter = container.run / "starts"
    script = container.run / "carrier2"
    script.write_text(f"#!/bin/sh\necho >> {counter}\nexit 3\n")
    script.chmod(0o755)
    environment = {**os.environ, "CARRIER2": str(script)}
    container.process = await asyncio.create_subprocess_exec(
        "busybox", "sh", str(ENTRY), env=environment, stderr=-1, start_new_session=True
    )
    await asyncio.sleep(2.5)
    assert 2 <= len(counter.read_text().splitlines()) <= 4
    container.process.terminate()


async def test_the_operators_file_is_written_as_short_as_it_can_be_said_when_it_would_read_back_a_part(container):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await container.start()
        await started(container.pod, port, shadow.port, 20)
        assert yaml.safe_load(container.pod.config.read_text())["threads"] == 4  # it fits, and is the operator's
        for _ in range(2):
            assert accepted(await container.pod.commit(configured(container.pod, port, shadow.port, 30)))
            text = container.pod.config.read_text()
            assert len(text) < 4096
            assert len(yaml.safe_load(text)["proxy"][0]["bridges"]) == 30


async def test_what_the_operator_writes_while_its_file_is_replaced_is_not_lost(container):
    port = free_port()
    async with tcp_server(answering) as shadow:
        await container.start()
        with open(container.pod.config, "w") as file:  # as its shell has it open
            json.dump(configured(container.pod, port, shadow.port, 30), file)
            file.flush()
            assert "Bootstrap starting" in await container.pod.type(f"carrier2 -c {container.pod.config} -u -d\n")
            file.seek(0)
            file.truncate()
            json.dump(configured(container.pod, port, shadow.port, 3), file)
        assert "Bootstrap starting" in await container.pod.type(f"carrier2 -c {container.pod.config} -u -d\n")
        assert len(yaml.safe_load(container.pod.config.read_text())["proxy"][0]["bridges"]) == 3
        assert sum(one["name"].startswith(f"{port}/user-") for one in container.call("GET", "rules")) == 3


async def test_a_mount_says_what_it_gave_and_what_nobody_can_give(container):
    port = free_port()
    await container.start()
    wanted = mounted(port, 1, john_1=BRIDGE, jane_1={**BRIDGE, "user": "jane"})
    found = container.call("PUT", "mount", wanted)
    assert found["given"] == ["john.1"]
    assert "has the same rule already" in found["lost"]["jane.1"]
    assert container.call("PUT", "mount", mounted(port, 1, john_1=BRIDGE))["given"] == []
    assert container.call("PUT", "bridges/hand-made", {**BRIDGE, "port": port, "match": {"matchHeader": {"name": "a", "value": "b"}}})
    container.call("PUT", "mount", mounted(port, 1))
    assert "john.1" not in container.bridges()
    assert container.call("PUT", "mount", {"document": {}, "files": {"/etc/passwd": "x"}})["status"] == 400


async def test_kubelets_probes_are_nobodys_although_a_bridge_takes_a_whole_path(container):
    port = free_port()
    wide = {**BRIDGE, "rules": [{"match": [{"matchPath": {"path": "/", "type": "prefix"}}]}]}
    async with tcp_server(answering) as shadow:
        await container.start()
        container.call("PUT", "mount", mounted(port, shadow.port, john_1={**wide, "rules": wide["rules"]}))
        assert "x-carrier-fallback" not in (await http(port, headers={"user-agent": "kube-probe/1.34"}))[1]


async def test_a_hook_of_the_container_that_asks_by_http_is_answered_by_the_proxy_itself(container):
    asked = []

    async def shadow_of(reader, writer):
        asked.append(await reader.read(100))
        writer.close()

    port = free_port()
    async with tcp_server(shadow_of) as shadow:
        await container.start()
        container.call("PUT", "mount", mounted(port, shadow.port))
        assert (await http(port, "/shutdown", headers={"user-agent": "kube-lifecycle/1.34"}))[0] == 200
    assert asked == []


async def test_a_laptop_that_speaks_plain_http_where_tls_is_meant_is_told_as_tls(container):
    port = free_port()

    async def plain(peer):
        await peer.reader.read(100)  # a ClientHello, which is no request
        peer.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async with tcp_server(plain) as laptop, tcp_server(answering) as shadow:
        await container.start()
        wanted = {**BRIDGE, "endpoint": f"127.0.0.1:{laptop.port}", "tls": {"verify": False}}
        container.call("PUT", "mount", mounted(port, shadow.port, john_1=wanted))
        status, fields, body = await http(port, headers={"x-user": "john"})
        assert (status, body, fields["x-carrier-fallback"]) == (200, b"shadow", "tls")
        (shown,) = container.call("GET", "mount")["bridges"]
        assert "does your container speak TLS on" in shown["health"]
        await container.until(lambda: container.call("GET", "mount")["bridges"][0]["fallbacks"] == {"tls": 1})


FREEZER = Path("/sys/fs/cgroup/freezer")


async def test_a_daemon_that_was_killed_and_has_not_noticed_yet_is_no_daemon(container, tmp_path):
    """As one that gives back its memory: it has its number and its name still."""
    group = FREEZER / f"carrier2-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"no process can be frozen here: {exc.strerror}")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        (group / "freezer.state").write_text("FROZEN")
        process.kill()
        pod = Pod(tmp_path)
        (tmp_path / "carrier2.pid").write_text(f"{process.pid}\n")
        await pod.type(f"carrier2 -c {pod.config} -u -d\n")
        assert pod.pid != process.pid
        await pod.until("Server starting")
        os.kill(pod.pid, signal.SIGKILL)
    finally:
        (group / "freezer.state").write_text("THAWED")
        process.wait()
        group.rmdir()
