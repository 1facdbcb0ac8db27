"""The commands that ask a running carrier, against one, and what they say when there is none."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carrier.cli.main import main
from carrier.cli.page import ago
from carrier.log import Log
from carrier.process.serve import Server, Settings, start
from tests.ports import free_port
from tests.support import cluster, config, echo, listener

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
Run = Callable[..., Any]


class Pod:
    """A running carrier in front of a shadow, and the command line of somebody who asks it."""

    def __init__(self, server: Server, where: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self.where, self.capsys = server, where, capsys

    async def carrier(self, *arguments: str) -> tuple[int, str]:
        """Run `carrier ARGUMENTS`: exit status, and what it printed."""
        status = await asyncio.to_thread(main, [*arguments, "--admin", self.where])
        said = self.capsys.readouterr()
        return status, said.out + said.err

    async def get(self, path: str, *headers: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.proxy.listeners["web"].port)  # type: ignore[attr-defined]
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "host: a", "connection: close", *headers, "", ""]).encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer


@pytest.fixture(params=["unix socket", "TCP"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "c.sock") if request.param == "unix socket" else f"127.0.0.1:{free_port()}"


@pytest.fixture
async def pod(where: str, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Pod]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.read(65536)) != b"":
            writer.write(HELLO)
        writer.close()

    shadow = await asyncio.start_server(serve, "127.0.0.1", 0)
    conf = config(
        clusters=[cluster("shadow", shadow.sockets[0].getsockname()[1], protocol="HTTP"), echo()],
        listeners=[
            listener(
                "web", protocol="HTTP", port=free_port(), rules=[{"name": "everybody", "action": {"route": {"destination": "shadow"}}}]
            ),
            listener("tcp", "echo"),
        ],
    )
    unix = "/" in where
    admin = None if unix else ("127.0.0.1", int(where.rpartition(":")[2]))
    server = await start(conf, Log("silent"), Settings(admin, socket=where if unix else None))
    server.env.gate.pid = 0  # these tests call from the process of the server, which is nobody
    yield Pod(server, where, capsys)
    await server.close()
    shadow.close()


def port(pod: Pod) -> str:
    return str(pod.server.proxy.listeners["web"].port)  # type: ignore[attr-defined]


async def add_john(pod: Pod, to: str) -> tuple[int, str]:
    return await pod.carrier("bridges", "add", "john", "--port", port(pod), "--user", "john", "-H", "x-user: john", "--to", to)


async def test_a_bridge_is_made_seen_renewed_checked_and_removed(pod: Pod) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    status, text = await add_john(pod, nobody)
    assert status == 0 and "bridge john is in force: requests to web with x-user: john go to " in text
    assert f"{nobody} does not answer yet" in text and "the shadow answers until it does" in text
    assert f"try: curl -i -H 'x-user: john' http://127.0.0.1:{port(pod)}/" in text and "it lives until " in text
    assert 86_000 < (pod.server.proxy.config.bridges["john"].expires or 0) - time.time() <= 86_400, "a day, when nobody says how long"
    await pod.get("/", "x-user: john")
    status, text = await pod.carrier("bridges")
    assert status == 0 and re.search(
        rf"^\s*john +john +web +{nobody} refused: is your container listening on \d+\? +1 +0 s ago", text, re.M
    )
    status, text = await pod.carrier("bridges", "renew", "john", "--expires", "2m")
    assert status == 0 and text.startswith("bridge john lives until ")
    assert (pod.server.proxy.config.bridges["john"].expires or 0) - time.time() <= 120
    assert (await pod.carrier("bridges", "--user", "jane"))[1] == "no bridges of jane\n"
    status, text = await pod.carrier("bridges", "check", "john")
    assert status == 1 and f"{nobody} is not reachable: {nobody}" in text
    assert (await pod.carrier("bridges", "rm", "john"))[0] == 0
    status, text = await pod.carrier("bridges", "rm", "john")
    assert status == 1 and "there is no bridge 'john'" in text


async def test_a_bridge_whose_time_is_over_is_listed_as_expired(pod: Pod) -> None:
    shadow = pod.server.proxy.clusters["shadow"].endpoints[0].address
    await pod.carrier(
        "bridges", "add", "jane", "--port", port(pod), "--user", "jane", "--to", shadow, "--path", "/cart", "--expires", "0.2"
    )
    for _ in range(100):
        await asyncio.sleep(0.05)
        if not pod.server.proxy.config.bridges:
            break
    assert re.search(r"jane +jane +web +expired ", (await pod.carrier("bridges"))[1])
    assert (await pod.carrier("bridges", "--user", "john"))[1] == "no bridges of john\n"


async def test_a_cookie_and_a_whole_port_can_be_bridged_by_the_command(pod: Pod) -> None:
    shadow = pod.server.proxy.clusters["shadow"].endpoints[0].address
    add = ("bridges", "add", "jane", "--port", port(pod), "--user", "jane", "--to", shadow)
    status, text = await pod.carrier(*add, "--cookie", "user=jane")
    assert status == 0 and f"try: curl -i -H 'cookie: user=jane' http://127.0.0.1:{port(pod)}/" in text
    assert re.search(rf"{shadow} not tried yet", (await pod.carrier("bridges"))[1])
    await pod.get("/", "cookie: theme=dark; user=jane")
    assert re.search(rf"jane +jane +web +{shadow} up +1 ", (await pod.carrier("bridges"))[1]), "among other cookies"
    status, text = await pod.carrier(*add, "--stream", "--cookie", "user=jane")
    assert status == 2 and "--stream takes the whole port" in text
    status, text = await pod.carrier(*add[:3], "--port", "web", *add[5:])
    assert status == 2 and "--cookie NAME=VALUE" in text and "--stream (the whole port)" in text
    status, text = await pod.carrier("bridges", "add", "all", "--port", port(pod), "--user", "jim", "--to", shadow, "--stream")
    assert status == 0 and f"bridge all is in force: everything that comes to web goes to {shadow}" in text and "curl" not in text


async def test_a_laptop_that_is_there_is_reachable(pod: Pod) -> None:
    shadow = pod.server.proxy.clusters["shadow"].endpoints[0].address
    await add_john(pod, shadow)
    status, text = await pod.carrier("bridges", "check", "john")
    assert status == 0 and text.startswith(f"{shadow} is reachable, ")


async def test_status_shows_rules_in_order_with_who_when_where_and_hits(pod: Pod) -> None:
    await add_john(pod, f"127.0.0.1:{free_port()}")
    assert b"x-carrier-fallback: refused" in await pod.get("/", "x-user: john")
    await pod.get("/")
    status, text = await pod.carrier("status")
    assert status == 0 and text.startswith("carrier ") and ", ready, revision 2," in text
    assert re.search(r'^  1 +bridge/john +john +header x-user is "john" +bridge/john, else shadow +1 +0 s ago$', text, re.M)
    assert re.search(r"^  2 +everybody +- +anything +shadow +1 +0 s ago$", text, re.M)
    assert re.search(r"^shadow +HTTP +127.0.0.1:\d+ +up +0 +2 +0$", text, re.M)
    _, text = await pod.carrier("status", "--json")
    assert [rule["rule"] for rule in json.loads(text)["listeners"][0]["rules"]] == ["bridge/john", "everybody"]


async def test_explain_asks_the_running_carrier(pod: Pod) -> None:
    await add_john(pod, "127.0.0.1:9")
    status, text = await pod.carrier("explain", "GET", "/x", "-H", "X-User: John")
    assert status == 0 and "differs only in case" in text and "why        rule everybody: anything" in text
    _, text = await pod.carrier("explain", "/x", "--json")
    assert json.loads(text)["rule"] == "everybody"
    status, text = await pod.carrier("explain", "--listener", "nope")
    assert status == 1 and "--listener: there is no listener 'nope'" in text


async def test_sessions_are_listed_shown_and_killed(pod: Pod) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.server.proxy.listeners["tcp"].port)  # type: ignore[attr-defined]
    writer.write(b"hello")
    await reader.readexactly(5)
    _, text = await pod.carrier("sessions")
    heading, row = text.splitlines()
    name = row.split()[0]
    assert heading.split()[:4] == ["session", "protocol", "user", "status"]
    assert name.startswith("TCP:127.0.0.1:") and " TCP " in row and " CONNECTED " in row and " rule 1 of tcp " in row and " 5/5 " in row
    assert (await pod.carrier("sessions", "--listener", "web", "--sort", "bytes"))[1] == "no sessions\n"
    _, text = await pod.carrier("sessions", "show", name)
    assert "why   rule 1 of tcp: anything" in text and "CONNECT " in text
    assert await pod.carrier("sessions", "kill", name) == (0, f"{name} is ended: both sides are closed\n")
    assert await reader.read() == b""
    writer.close()
    status, text = await pod.carrier("sessions", "kill")
    assert status == 2 and "which session?" in text
    for action in ("show", "kill"):
        status, text = await pod.carrier("sessions", action, "TCP:nobody")
        assert status == 1 and "there is no session 'TCP:nobody'; carrier sessions lists" in text


async def test_dump_diff_and_apply_go_round(pod: Pod, tmp_path: Path) -> None:
    file = tmp_path / "now.yaml"
    file.write_text((await pod.carrier("dump"))[1])
    assert await pod.carrier("diff", str(file)) == (0, "")
    file.write_text(file.read_text().replace("name: everybody", "name: everyone"))
    status, text = await pod.carrier("diff", "--lines", str(file))
    assert (
        status == 1 and "- rules/everybody\n" in text and "+ rules/everyone\n" in text and re.search(r"^\+ +- name: everyone", text, re.M)
    )
    status, text = await pod.carrier("apply", "--dry-run", str(file))
    assert status == 0 and text.startswith("it would change: ") and "+1 rule, -1 rule" in text
    assert "everyone" not in pod.server.proxy.config.rules
    status, text = await pod.carrier("apply", str(file))
    assert status == 0 and text.startswith("revision 2: ") and "+1 rule, -1 rule" in text
    assert "everyone" in pod.server.proxy.config.rules
    assert (await pod.carrier("apply", str(file)))[1] == "revision 2: nothing changed\n"
    file.write_text("listeners:\n  - {name: x, spex: 1}\n")
    status, text = await pod.carrier("apply", str(file))
    assert status == 1 and f"{file}:2:5: error: $.listeners[0]: a listener needs 'spec" in text and "   2 |   - {name: x, spex: 1}" in text
    assert "nothing has changed" in text
    file.write_text("listeners: [\n")
    for command in ("apply", "diff"):
        status, text = await pod.carrier(command, str(file))
        assert status != 0 and f"{file}:2:1: error: not YAML" in text and "nothing has changed" in text
    assert (await pod.carrier("diff", str(file)))[0] == 2, "1 is for a difference"


def test_a_carrier_that_is_not_there_is_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    where = f"127.0.0.1:{free_port()}"
    assert main(["status", "--admin", where]) == 1
    assert f"no carrier answers at {where}" in capsys.readouterr().err


def test_the_default_socket_that_nobody_answers_at_leaves_the_tcp_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    socket_path, beside = tmp_path / "carrier.sock", tmp_path / "carrier-77.sock"
    monkeypatch.delenv("CARRIER_ADMIN", raising=False)
    monkeypatch.setattr("carrier.admin.where.default_socket", lambda: str(socket_path))
    with socket.socket(socket.AF_UNIX) as gone:  # as a crash leaves it
        gone.bind(str(socket_path))
    monkeypatch.setenv("CARRIER_SOCKET", str(tmp_path / "gefyra.sock"))
    beside.touch()
    asked = []

    def refuse(self: Any) -> None:
        asked.append((self.host, self.port))
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("http.client.HTTPConnection.connect", refuse)
    assert main(["status"]) == 1
    assert asked == [("127.0.0.1", 1234)]
    said = capsys.readouterr().err
    assert "no carrier answers at 127.0.0.1:1234: Connection refused, nor at 2 sockets that carriers have left behind; --admin" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--watch", "-1"],
        ["status", "--watch", "0"],
        ["status", "--watch", "nan"],
        ["explain", "GET", "cart"],
        ["explain", "G ET", "/cart"],
        ["explain", "GET:", "/cart"],
        ["explain", ""],
        ["explain", "/", "-H", "x-user"],
        ["explain", "/", "-H", ": john"],
        ["bridges", "add", "john", "-H", "x-user=john"],
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--admin", "127.0.0.1:1"])
    assert caught.value.code == 2
    assert "expected" in capsys.readouterr().err


async def test_bridges_that_a_file_has_no_place_for_are_named_before_and_when_they_go(pod: Pod, tmp_path: Path) -> None:
    file = tmp_path / "moved.yaml"
    was = port(pod)
    await add_john(pod, "127.0.0.1:9")
    file.write_text((await pod.carrier("dump"))[1].replace(was, str(free_port())))
    for command in (("diff",), ("apply", "--dry-run"), ("apply",)):
        said = (await pod.carrier(*command, str(file)))[1]
        assert f"warning: bridge 'john' is gone: there is no port {was}" in said, command
    assert (await pod.carrier("bridges"))[1].count("john") == 0


@pytest.mark.parametrize("arguments", [["apply"], ["diff"]])
def test_a_file_that_cannot_be_read_is_bad_usage(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, str(tmp_path / "none.yaml")]) == 2
    assert f"{tmp_path}/none.yaml: No such file or directory" in capsys.readouterr().err
    (tmp_path / "latin1.yaml").write_bytes(b"# \xe4\n")
    assert main([*arguments, str(tmp_path / "latin1.yaml")]) == 2


async def test_watching_outlives_a_restart(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are what this test does in between: the carrier goes away, then the watcher has seen enough."""
    loop = asyncio.get_running_loop()
    pauses: Iterator[Callable[[], object]] = iter(
        [lambda: asyncio.run_coroutine_threadsafe(pod.server.close(), loop).result(10), lambda: None]
    )

    def pause(seconds: float) -> None:
        assert seconds == 0.5
        step = next(pauses, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr("carrier.cli.status.time.sleep", pause)
    status, text = await pod.carrier("status", "--watch", "0.5")
    assert status == 1 and text.count(", ready, ") == 1 and text.count("no carrier answers") == 2


def test_explain_works_by_a_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "listeners: [{name: web, spec: {protocol: HTTP, port: 8080}, rules: [{name: r, action: {route: {destination: a}}}]}]\n"
        "clusters: [{name: a, spec: {protocol: HTTP, port: 80}, endpoints: [{spec: {address: 10.0.0.1}}]}]\n"
    )
    assert main(["explain", "http://shop.example:8080/", "-c", str(file)]) == 0
    assert "its Host is shop.example:8080" in capsys.readouterr().out
    assert main(["explain", "GET", "/", "-c", str(file)]) == 0
    assert "goes to    cluster a (HTTP), endpoint 10.0.0.1:80: its only endpoint" in capsys.readouterr().out
    file.write_text("listeners: 7\n")
    assert main(["explain", "GET", "/", "-c", str(file)]) == 2


@pytest.mark.parametrize(("moment", "words"), [(None, "never"), ("2000-01-01T00:00:00.000Z", "d ago")])
def test_moments_are_told_in_words(moment: str | None, words: str) -> None:
    assert ago(moment).endswith(words)


async def test_status_tells_what_is_privileged_and_who_is_trusted(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    unix = "/" in where
    conf = config(clusters=[{"name": "sh", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}}], listeners=[listener("tcp", "sh")])
    admin = None if unix else ("127.0.0.1", int(where.rpartition(":")[2]))
    server = await start(conf, Log("silent"), Settings(admin, socket=where if unix else None, trust_loopback="none"))
    server.env.gate.pid = 0  # these tests call from the process of the server, which is nobody
    try:
        status, text = await Pod(server, where, capsys).carrier("status")
    finally:
        await server.close()
    assert status == 0 and "privileged  on loopback: nobody without a token" in text
    assert "  cluster sh: STDIO-fork runs commands\n" in text and 'listener tcp: leads to cluster "sh": STDIO-fork runs commands' in text
