"""Recorded calls against the real l7mp, replayed on Carrier2, in one process, on free ports.

Each transcript gets a fresh proxy with its configuration. Status and body must be equal, volatile members apart; where ours must differ,
`l7mp-exceptions.yaml` lists the step with the recorded answer, ours and why, and a difference that is not listed fails, as does one
that is listed and gone. Protocols that l7mp has and we have not built yet are stood in for, so that a missing one does not
shift every implicit name after it; they vanish from here by themselves when they are built.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from carrier import config, registry, source
from carrier.api import Api
from carrier.cluster import Cluster, Env
from carrier.errors import Error
from carrier.proxy import Proxy
from listeners.tcp import TcpListener

TRANSCRIPTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "transcripts"
EXCEPTIONS = {e["step"]: e for e in yaml.safe_load((Path(__file__).parent / "l7mp-exceptions.yaml").read_text())}
NAMES = sorted(p.stem for p in TRANSCRIPTS.glob("*.json"))
API_PORT = 1234
VOLATILE = ("sessions", "version", "timestamp", "log_level")

# Protocols of l7mp: the clusters with the fields that its dumps show, and whether they are virtual; and the listeners.
VIRTUAL = {"Stdio": (), "JSONEncap": (), "JSONDecap": (), "Prometheus": (), "Metric": (), "Test": (), "Sync": ("query",)}
CONNECTED = ("WebSocket", "UnixDomainSocket", "JSONSocket")


class StandIn(TcpListener):
    """A listener of a protocol that is not built: it binds what TCP would, or nothing when it has no port."""

    def key(self) -> Any:
        return super().key() if "port" in self.spec else None

    async def bind(self) -> None:
        if "port" in self.spec:
            await super().bind()


class JsonSocket(Cluster):
    """What a JSONSocket cluster refuses."""

    protocol = "JSONSocket"

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        if not {"transport", "transport_spec"} & conf.spec.keys():
            raise Error("config", "JSONSocketCluster: No transport specified")


def stand_in_cluster(protocol: str) -> Any:
    members: dict[str, Any] = {"protocol": protocol, "virtual": protocol in VIRTUAL, "fields": dict.fromkeys(VIRTUAL.get(protocol, ()), "")}
    members["shows_endpoint"] = protocol != "Prometheus"
    members["default_policy"] = "None" if protocol in ("Stdio", "Sync") else "Trivial"
    return type(protocol, (Cluster,), members)


@pytest.fixture
def all_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every protocol of l7mp: ours where it is built, else one that stands in."""
    clusters = {name: stand_in_cluster(name) for name in (*VIRTUAL, *CONNECTED)} | {"JSONSocket": JsonSocket}
    listeners = {name: type(name, (StandIn,), {"protocol": name}) for name in CONNECTED}
    real_cluster, real_listener = registry.cluster, registry.listener
    monkeypatch.setattr(registry, "cluster", lambda name: real_cluster(name) or clusters.get(name))
    monkeypatch.setattr(registry, "listener", lambda name: real_listener(name) or listeners.get(name))


class Names:
    """Ports and files of a transcript, and those that stand for them here."""

    def __init__(self, text: str, folder: Path) -> None:
        wanted = sorted({int(n) for n in re.findall(r"\b1[5-8]\d{3}\b", text)} | {API_PORT})
        self.here = dict(zip(map(str, wanted), map(str, free_ports(len(wanted))), strict=True))
        self.there = {v: k for k, v in self.here.items()}
        self.folder = str(folder)

    def to_here(self, text: str) -> str:
        return self._swap(text, self.here).replace("/tmp/", f"{self.folder}/")

    def to_there(self, text: str) -> str:
        return self._swap(text, self.there).replace(f"{self.folder}/", "/tmp/")

    def _swap(self, text: str, names: dict[str, str]) -> str:
        return re.sub(r"\b\d{4,5}\b", lambda found: names.get(found[0], found[0]), text)


def free_ports(count: int) -> list[int]:
    """Ports that are free for TCP and UDP at this moment."""
    taken, ports = [], []
    while len(ports) < count:
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        taken += [tcp, udp]
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(("127.0.0.1", tcp.getsockname()[1]))
        except OSError:
            continue
        ports.append(tcp.getsockname()[1])
    for sock in taken:
        sock.close()
    return ports


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


async def replay(name: str, folder: Path) -> list[str]:
    text = (TRANSCRIPTS / f"{name}.json").read_text()
    transcript = json.loads(text)
    names = Names(text, folder)
    loaded = source.loads(names.to_here((TRANSCRIPTS / transcript["config"]).read_text()))
    admin = msgspec.structs.replace(loaded.config.admin, strict=transcript["strict"])
    env = Env(asyncio.get_running_loop())
    proxy = Proxy(env, None)
    env.api = Api(proxy)
    await proxy.apply(msgspec.structs.replace(loaded.config, admin=admin))
    wrong = []
    try:
        for i, step in enumerate(transcript["steps"]):
            if step["kind"] != "http" or step["port"] != API_PORT or "status" not in step["response"]:
                continue
            request, response = step["request"], step["response"]
            status, body = await asyncio.to_thread(exchange, int(names.here[str(API_PORT)]), request, names.to_here)
            want = response["status"], response.get("json", response["body"])
            wrong.append(compare(f"{name}#{i}", request, want, (status, decoded(names.to_there(body)))))
    finally:
        await proxy.close()
    return [text for text in wrong if text]


@pytest.mark.skipif(not NAMES, reason="the recorded transcripts are not part of this repository")
@pytest.mark.parametrize("name", NAMES)
async def test_calls_are_answered_as_l7mp_answers_them(name: str, tmp_path: Path, all_protocols: None) -> None:
    wrong = await replay(name, tmp_path)
    assert not wrong, "\n".join(wrong)
