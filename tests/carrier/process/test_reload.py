"""The configuration file read again: all or nothing, REST changes and bridges kept or dropped as promised, links swapped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from carrier.config import source
from carrier.errors import Error
from carrier.log import Log
from carrier.process import reload
from carrier.process.reload import stamp_of, with_admin
from carrier.process.serve import Server, Settings, start
from carrier.process.state import Folder
from tests.support import cluster, config, full_disk, port_of, tcp, wait_until

FILE = """
listeners:
  - name: web
    spec: {{protocol: HTTP, port: 0, address: 127.0.0.1}}
    rules: [{{action: {{route: {{destination: echo}}}}}}]
clusters:
  - {{name: echo, spec: {{protocol: Echo}}}}
  - {{name: {name}, spec: {{protocol: Echo}}}}
"""


@contextlib.asynccontextmanager
async def running(file: Path, lines: list[str], **settings: Any) -> AsyncIterator[Server]:
    loaded = source.load(file)
    settings |= {"admin": None, "file": str(file), "text": loaded.text}
    server = await start(loaded.config, Log("info", lines.append), Settings(**settings))
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "carrier.yaml"
    path.write_text(FILE.format(name="one"))
    return path


@pytest.fixture
def lines() -> list[str]:
    return []


def clusters(server: Server) -> list[str]:
    return list(server.proxy.config.clusters)


async def test_a_changed_file_is_put_in_force_and_listeners_keep_their_sockets_and_sessions(file: Path, lines: list[str]) -> None:
    async with running(file, lines) as server:
        listener = server.proxy.listeners["web"]
        async with tcp(port_of(server.proxy, "web")) as client:
            await wait_until(lambda: listener.connections)  # type: ignore[attr-defined]
            file.write_text(FILE.format(name="two"))
            assert await server.base.read_again("a test")
            assert clusters(server) == ["echo", "two"]
            assert server.proxy.listeners["web"] is listener
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_bad_file_changes_nothing_and_every_reason_is_said(file: Path, lines: list[str]) -> None:
    async with running(file, lines) as server:
        before = server.proxy.config
        file.write_text(FILE.format(name="two").replace("Echo", "Ehco").replace("port: 0", "port: 99999"))
        assert not await server.base.read_again("a test")
        assert server.proxy.config is before
        said = "".join(line for line in lines if " error " in line)
        assert "nothing has changed" in said and said.count("Ehco") == 2 and "99999" in said
        assert all(f" line={line} " in said for line in (4, 7, 8)), said
        file.unlink()
        assert not await server.base.read_again("a test")
        file.write_text(FILE.format(name="three"))
        assert await server.base.read_again("a test")
        assert clusters(server) == ["echo", "three"]


async def test_a_file_that_cannot_be_bound_changes_nothing_and_may_be_mended(file: Path, lines: list[str]) -> None:
    async with running(file, lines) as server:
        taken = port_of(server.proxy, "web")
        more = f"  - {{name: more, spec: {{protocol: TCP, port: {taken}, address: 127.0.0.1}}, rules: []}}\nclusters:"
        file.write_text(FILE.format(name="two").replace("clusters:", more))
        assert not await server.base.read_again("a test")
        assert clusters(server) == ["echo", "one"]
        file.write_text(FILE.format(name="two"))
        assert await server.base.read_again("a test")
        assert clusters(server) == ["echo", "two"]


async def test_an_unchanged_file_leaves_what_was_changed_over_rest(file: Path, lines: list[str]) -> None:
    async with running(file, lines) as server:
        await server.proxy.apply(config(clusters=[cluster("rest", 1)], base=server.proxy.config))
        assert await server.base.read_again("a test")
        assert "rest" in clusters(server)
        file.write_text(FILE.format(name="two"))
        assert await server.base.read_again("a test")
        assert "rest" not in clusters(server)
        assert any("dropped" in line and "objects=clusters/rest" in line for line in lines)


async def test_bridges_stay(file: Path, lines: list[str]) -> None:
    async with running(file, lines) as server:
        body = {"listener": "web", "user": "john", "match": {"matchHeader": {"name": "x-user", "value": "john"}}, "endpoint": "127.0.0.1:9"}
        await server.proxy.apply(server.bridges.put(server.proxy.config, "john", body))
        file.write_text(FILE.format(name="two"))
        assert await server.base.read_again("a test")
        assert list(server.proxy.config.bridges) == ["john"]
        file.write_text(FILE.format(name="two").replace("name: web", "name: other"))
        assert await server.base.read_again("a test")
        assert not server.proxy.config.bridges
        assert any("bridge 'john' is gone" in line for line in lines)


async def test_a_reload_is_kept_in_the_state(file: Path, lines: list[str], tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    async with running(file, lines, state=folder) as server:
        file.write_text(FILE.format(name="two"))
        assert await server.base.read_again("a test")
        revision = server.proxy.config.revision
    async with running(file, lines, state=folder) as server:
        assert (clusters(server), server.proxy.config.revision) == (["echo", "two"], revision)
        assert not [line for line in lines if "dropped" in line]


async def test_a_change_that_the_disk_does_not_take_is_an_error_in_the_log_too(
    file: Path, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made the change is told, but the one who can make room reads the log."""
    async with running(file, lines, state=str(tmp_path / "state")) as server:

        def full(path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("carrier.process.state._write", full)
        with pytest.raises(Error, match="No space left"):
            await server.proxy.apply(config(clusters=[cluster("more", 9)], base=server.proxy.config))
        assert clusters(server) == ["echo", "one"]
        assert [
            line for line in lines if " error " in line and "cannot be kept" in line and "No space left" in line and "revision=2" in line
        ]


async def test_the_log_level_of_the_file_takes_effect_and_the_command_line_wins(file: Path, lines: list[str]) -> None:
    async with running(file, lines, adjust=lambda found: with_admin(found, None, True)) as server:
        file.write_text("admin: {log_level: warn}\n" + FILE.format(name="two"))
        assert await server.base.read_again("a test")
        assert server.log.level == "warn" and server.proxy.config.admin.strict


async def test_a_watched_file_is_read_when_it_has_stood_still(file: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "LOOK", 0.02)
    async with running(file, lines, watch=True) as server:
        file.write_text(FILE.format(name="two"))
        await wait_until(lambda: clusters(server) == ["echo", "two"])
        assert server.base.reloads == 1
        file.write_text("nonsense: [")
        await wait_until(lambda: server.base.failures == 1)
        file.unlink()
        file.write_text(FILE.format(name="three"))
        await wait_until(lambda: clusters(server) == ["echo", "three"])
        assert server.base.failures == 1, "a bad file is told once, not at every look"


async def test_kubernetes_swaps_the_link_of_a_folder(tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kubelet updates a ConfigMap volume: a new folder, a new link, a rename."""
    monkeypatch.setattr(reload, "LOOK", 0.02)
    volume = tmp_path / "volume"
    volume.mkdir()

    def publish(name: str) -> None:
        (volume / f"..{name}").mkdir()
        (volume / f"..{name}" / "carrier.yaml").write_text(FILE.format(name=name))
        (volume / "..tmp").symlink_to(f"..{name}")
        os.rename(volume / "..tmp", volume / "..data")

    publish("one")
    (volume / "carrier.yaml").symlink_to("..data/carrier.yaml")
    async with running(volume / "carrier.yaml", lines, watch=True) as server:
        for name in ("two", "six"):
            publish(name)
            await wait_until(lambda name=name: clusters(server) == ["echo", name])  # type: ignore[misc]


async def test_reloads_at_the_same_time_are_one(file: Path, lines: list[str]) -> None:
    async with running(file, lines) as server:
        file.write_text(FILE.format(name="two"))
        for _ in range(5):
            server.base.reload("SIGHUP")
        task = server.base.task
        assert task is not None and await task
        await wait_until(lambda: server.base.task is not task and server.base.task is not None and server.base.task.done())
        assert server.base.reloads == 1, "the second reading finds nothing new"
        assert sum("says what it said" in line for line in lines) == 1


async def test_a_signal_that_comes_while_the_file_is_being_read_is_not_lost(
    file: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading under way may have seen the file as it was before it was changed."""
    async with running(file, lines) as server:
        loop, load = asyncio.get_running_loop(), server.base._load

        def slow(path: str) -> source.Loaded:
            found = load(path)
            if "three" not in found.text:
                file.write_text(FILE.format(name="three"))
                loop.call_soon_threadsafe(server.base.reload, "SIGHUP")
            return found

        monkeypatch.setattr(server.base, "_load", slow)
        file.write_text(FILE.format(name="two"))
        server.base.reload("SIGHUP")
        await wait_until(lambda: "three" in clusters(server))


def test_the_stamp_changes_with_the_content_and_is_none_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert stamp_of(str(path)) is None
    path.write_text("a")
    first = stamp_of(str(path))
    path.write_text("ab")
    assert stamp_of(str(path)) not in (None, first)


# -- a disk without room


async def test_a_process_starts_and_reloads_with_a_full_disk_whatever_its_folder_holds(
    file: Path, lines: list[str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with full_disk():
        async with running(file, lines, state=str(state)) as server:
            assert clusters(server) == ["echo", "one"] and server.life.state == "ready"
            assert "File too large" in server.proxy.unsaved
    async with running(file, lines, state=str(state)) as server:
        body = {"listener": "web", "user": "john", "endpoint": "127.0.0.1:9", "expires": 0.1, "type": "stream"}
        await server.proxy.apply(server.bridges.put(server.proxy.config, "john", body))
    await asyncio.sleep(0.15)
    with full_disk():
        async with running(file, lines, state=str(state)) as server:
            assert not server.proxy.config.bridges, "the lease has lapsed"
    text = FILE.format(name="two")
    file.write_text(text)
    with full_disk():
        async with running(file, lines, state=str(state)) as server:
            assert clusters(server) == ["echo", "two"]
    file.write_text(FILE.format(name="three"))
    async with running(file, lines, state=str(state)) as server:
        file.write_text(FILE.format(name="four"))
        with full_disk():
            assert await server.base.read_again("a test")
            with pytest.raises(Error, match="cannot be kept"):
                await server.proxy.apply(config(clusters=[cluster("more", 9)], base=server.proxy.config))
        assert clusters(server) == ["echo", "four"]


async def test_a_folder_that_is_removed_under_us_is_made_again_with_what_is_in_force(
    file: Path, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "MIND", 0.05)
    state = tmp_path / "state"
    async with running(file, lines, state=str(state)) as server:
        await server.proxy.apply(config(clusters=[cluster("more", 9)], base=server.proxy.config))
        shutil.rmtree(state)
        await wait_until(lambda: (state / "revision-2.json").exists())
        await wait_until(lambda: any("on disk again" in line for line in lines))
        shutil.rmtree(state)
        other = Folder(state, print)
        await wait_until(lambda: "another carrier" in server.proxy.unsaved)
        other.close()
        await wait_until(lambda: not server.proxy.unsaved)
    assert len([line for line in lines if "another carrier" in line]) == 1


async def test_the_access_log_and_the_trust_of_the_file_are_taken_up_and_a_log_that_cannot_be_refuses_all(
    file: Path, lines: list[str], tmp_path: Path
) -> None:
    def write(admin: str, name: str) -> None:
        file.write_text(f"admin: {admin}\n" + FILE.format(name=name))

    async def ask(server: Server) -> None:
        async with tcp(port_of(server.proxy, "web")) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            await client.read_all()

    write("{}", "one")
    async with running(file, lines) as server:
        assert server.env.gate.trust_loopback == "uid"
        for name in ("first", "second"):
            write(f"{{access_log: {tmp_path / name}, trust_loopback: none}}", name)
            assert await server.base.read_again("a test")
            await ask(server)
            await wait_until(lambda where=tmp_path / name: where.read_text().count("\n") == 1)  # type: ignore[misc]
        assert server.env.gate.trust_loopback == "none"
        assert server.metrics.access is not None and server.metrics.access.written == 2
        write(f"{{access_log: {tmp_path}}}", "third")
        assert not await server.base.read_again("a test")
        assert clusters(server) == ["echo", "second"]
        write("{}", "fourth")
        assert await server.base.read_again("a test")
        await ask(server)
        assert server.metrics.access is None and server.env.gate.trust_loopback == "uid"
    assert (tmp_path / "second").read_text().count("\n") == 1
