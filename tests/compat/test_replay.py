"""Recorded calls against the real l7mp, replayed on Carrier2, in one process, on free ports.

Each transcript gets a fresh proxy with its configuration. Status and body must be equal, volatile members apart; where ours must differ,
`l7mp-exceptions.yaml` lists the step with the recorded answer, ours and why, and a difference that is not listed fails, as does one
that is listed and gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from carrier.admin.api import Api
from carrier.config import source
from carrier.core.env import Env
from carrier.proxy.proxy import Proxy
from tests.ports import free_ports

TRANSCRIPTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "transcripts"
EXCEPTIONS = {e["step"]: e for e in yaml.safe_load((Path(__file__).parent / "l7mp-exceptions.yaml").read_text())}
NAMES = sorted(p.stem for p in TRANSCRIPTS.glob("*.json"))
API_PORT = 1234
VOLATILE = ("sessions", "version", "timestamp", "log_level")


@pytest.fixture
def no_sctp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without SCTP: what ours says to it shall not depend on the machine."""
    monkeypatch.setattr("clusters.sctp.missing", lambda: "SCTP needs a kernel that has it: Protocol not supported")


class Names:
    """Ports and files of a transcript, and those that stand for them here."""

    def __init__(self, text: str, folder: Path) -> None:
        wanted = sorted({int(n) for n in re.findall(r"\b1[5-8]\d{3}\b", text)} | {API_PORT})
        self.here = dict(zip(map(str, wanted), map(str, free_ports(len(wanted), socket.SOCK_STREAM, socket.SOCK_DGRAM)), strict=True))
        self.there = {v: k for k, v in self.here.items()}
        self.folder = str(folder)

    def to_here(self, text: str) -> str:
        return self._swap(text, self.here).replace("/tmp/", f"{self.folder}/")

    def to_there(self, text: str) -> str:
        return self._swap(text, self.there).replace(f"{self.folder}/", "/tmp/")

    def _swap(self, text: str, names: dict[str, str]) -> str:
        return re.sub(r"\b\d{4,5}\b", lambda found: names.get(found[0], found[0]), text)


def exchange(port: int, request: dict[str, Any], swap: Callable[[str], str]) -> tuple[int, str]:
    """Send a recorded request; its status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=8)
    try:
        body = request["body"]
        connection.request(request["method"], swap(request["path"]), swap(body).encode() if body is not None else None, request["headers"])
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def normal(value: Any, key: str | None = None) -> Any:
    """Without what changes from run to run; lists of named objects in the order of their names (rules keep theirs)."""
    if isinstance(value, dict):
        return {k: normal(v, k) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        items = [normal(v) for v in value]
        named = key != "rules" and all(isinstance(v, dict) and "name" in v for v in items)
        return sorted(items, key=lambda v: str(v["name"])) if named else items
    return value


def without(value: Any, names: list[Any]) -> Any:
    """The answer without the objects of these names, at any depth."""
    if isinstance(value, dict):
        return {k: without(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [without(v, names) for v in value if not (v in names if not isinstance(v, dict) else v.get("name") in names)]
    return value


def decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def compare(step: str, request: dict[str, Any], want: tuple[int, Any], got: tuple[int, Any]) -> str | None:
    """What is wrong with an answer, or None."""
    listed = EXCEPTIONS.get(step)
    if listed is None:
        if want[0] == 200 and request["path"].startswith("/api/v1/sessions") and request["method"] == "GET":
            same = got[0] == 200 and type(got[1]) is type(want[1])
        else:
            same = got[0] == want[0] and normal(got[1]) == normal(want[1])
        return None if same else f"{step} {request['method']} {request['path']}\n  recorded {want}\n  ours     {got}"
    ours = listed["ours"]
    if "extra" in ours or "missing" in ours:
        assert got[0] == want[0] == 200
        left, right = without(normal(got[1]), ours.get("extra", [])), without(normal(want[1]), ours.get("missing", []))
        same = left == right and normal(got[1]) != normal(want[1])
        return None if same else f"{step}: listed as {ours}\n  recorded {want}\n  ours     {got}"
    content = got[1].get("content") if isinstance(got[1], dict) else got[1]
    same = got[0] == ours["status"] and (("content" not in ours) or content == ours["content"])
    if same and (got[0], got[1]) == want:
        return f"{step} is listed as an exception, but ours is as recorded"
    return None if same else f"{step}: listed as {ours}\n  ours {got}"


# --- steps with sockets of their own ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def backends(names: Names) -> AsyncIterator[None]:
    """The TCP upstreams of the matching scenarios: 17011 says "A" to whoever connects, 17012 says "B"."""
    servers = []
    for port, text in (("17011", b"A"), ("17012", b"B")):
        if port in names.here:

            async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes = text) -> None:
                writer.write(text)
                await reader.read()
                writer.close()

            servers.append(await asyncio.start_server(say, "127.0.0.1", int(names.here[port])))
    try:
        yield
    finally:
        for server in servers:
            server.close()


async def hear(port: str, path: str, headers: dict[str, str], say: bytes | None = None) -> str:
    """What a WebSocket client hears first, or the class of the exception it gets, as the recorder wrote it."""
    try:
        async with connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers, compression=None, open_timeout=5) as client:
            if say is not None:
                await client.send(say)
            heard = await asyncio.wait_for(client.recv(), 5)
            return heard if isinstance(heard, str) else heard.decode()
    except (ConnectionClosed, TimeoutError) as exc:
        return f"<{type(exc).__name__}>"


def encapsulated(text: str) -> Any:
    """A recorded or heard JSONEncap message without what changes from run to run; a mapped IPv4 address is the address."""
    found = json.loads(re.sub(r"127\.0\.0\.1:\d+-", "CLIENT-", text.replace("::ffff:", "")))
    headers = found["metadata"].get("HTTP", {}).get("headers", {})
    for name in ("sec-websocket-key", "user-agent"):
        assert headers.pop(name, None) or not headers
    tcp = found["metadata"].get("TCP", {})
    if isinstance(tcp.get("src_port"), int):
        tcp["src_port"] = 0
    return found


async def websocket_step(step: dict[str, Any], port: str, request: dict[str, Any], names: Names) -> tuple[Any, Any]:
    """Play a `match` or `ws` step: what was recorded, and what we do. port: that of the listener posted last."""
    if "got" not in step:
        where = {**request, **step}
        return step["selected"], await hear(names.here[str(step.get("port", port))], where["path"], where["headers"])
    want = encapsulated(step["got"])
    http = want["metadata"].get("HTTP")
    path, own = (http["url"]["url"], {n: v for n, v in http["headers"].items() if n == "x-a"}) if http else ("/", {})
    return want, encapsulated(names.to_there(await hear(names.here[port], path, own, b"hi")))


async def udp_to_websocket(names: Names) -> str:
    """The README's main example: a datagram to 15002 is a message at 16000."""
    heard: asyncio.Queue[str | bytes] = asyncio.Queue()

    async def receive(server: ServerConnection) -> None:
        async for message in server:
            heard.put_nowait(message)

    async with serve(receive, "127.0.0.1", int(names.here["16000"])):
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("127.0.0.1", int(names.here["15002"])))
            found = await asyncio.wait_for(heard.get(), 5)
    return found if isinstance(found, str) else found.decode()


async def socket_step(label: str, step: dict[str, Any], port: str, request: dict[str, Any], names: Names) -> str | None:
    """What is wrong with a step that is no REST call, or None."""
    if step["kind"].startswith("udp->websocket"):
        want, got = step["got"], await udp_to_websocket(names)
    else:
        want, got = await websocket_step(step, port, request, names)
    listed = EXCEPTIONS.get(label)
    if listed is not None:
        same = got == listed["ours"]["got"] and got != want
        return None if same else f"{label}: listed as {listed['ours']}\n  recorded {want}\n  ours     {got}"
    return None if got == want else f"{label} {step.get('about')}\n  recorded {want}\n  ours     {got}"


# --- all steps --------------------------------------------------------------------------------------------------------------------


async def replay(name: str, folder: Path) -> list[str]:
    text = (TRANSCRIPTS / f"{name}.json").read_text()
    transcript = json.loads(text)
    configured = (TRANSCRIPTS / transcript["config"]).read_text()
    names = Names(text + configured, folder)
    loaded = source.loads(names.to_here(configured))
    admin = msgspec.structs.replace(loaded.config.admin, strict=transcript["strict"])
    env = Env(asyncio.get_running_loop())
    proxy = Proxy(env, None)
    env.api = Api(proxy)
    await proxy.apply(msgspec.structs.replace(loaded.config, admin=admin))
    wrong: list[str | None] = []
    port, shape = "", {"path": "/", "headers": {}}
    try:
        async with backends(names):
            for i, step in enumerate(transcript["steps"]):
                label = f"{name}#{i}"
                if step["kind"] == "request":
                    shape = {"path": step["path"], "headers": step["headers"]}
                elif step["kind"] in ("match", "ws") or step["kind"].startswith("udp->websocket"):
                    wrong.append(await socket_step(label, step, port, shape, names))
                elif step["kind"] == "http" and step["port"] == API_PORT and "status" in step["response"]:
                    request, response = step["request"], step["response"]
                    if found := re.search(r'"port": (1\d{4})', request["body"] or ""):
                        port = found[1]
                    status, body = await asyncio.to_thread(exchange, int(names.here[str(API_PORT)]), request, names.to_here)
                    want = response["status"], response.get("json", response["body"])
                    wrong.append(compare(label, request, want, (status, decoded(names.to_there(body)))))
    finally:
        await proxy.close()
    return [text for text in wrong if text]


@pytest.mark.skipif(not NAMES, reason="the recorded transcripts are not part of this repository")
@pytest.mark.parametrize("name", NAMES)
async def test_calls_are_answered_as_l7mp_answers_them(name: str, tmp_path: Path, no_sctp: None) -> None:
    wrong = await replay(name, tmp_path)
    assert not wrong, "\n".join(wrong)
