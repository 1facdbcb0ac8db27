"""`carrier gather`: what is in the bundle, and what is not."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from carrier.cli import gather
from carrier.cli.main import main
from carrier.log import Log
from carrier.process.serve import Settings, start
from tests.ports import free_port
from tests.support import cluster, config, http, listener, tcp

SECRETS = [f"hunter{n}x" for n in range(11)]
PARTS = {
    "README.txt",
    "process.json",
    "status.json",
    "config.json",
    "bridges.json",
    "sessions.json",
    "metrics.txt",
    "log.txt",
    "requests.json",
    "doctor.json",
}


@pytest.mark.parametrize("blind", [False, True])
async def test_one_file_has_everything_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    """blind: the command hides nothing. Then what it has to hide is in the bundle, so that the other half of this test can fail."""
    if blind:
        for name in ("document", "text"):
            monkeypatch.setattr(gather, name, lambda value: value)
        monkeypatch.setattr(gather, "_sessions", lambda listed: listed)
        monkeypatch.setattr(gather, "_shown", lambda name, value: value)
    web, admin = free_port(), free_port()
    key, fork, answer, cookie, query, header, path, sent, raw, body, user = SECRETS

    def rule(name: str, match: object, to: object = "shadow", **action: object) -> dict[str, object]:
        return {"name": name, "match": match, "action": {"route": {"destination": to}, **action}}

    conf = config(
        clusters=[
            cluster("shadow", free_port(), protocol="HTTP"),
            {"name": "fixed", "spec": {"protocol": "Answer", "body": answer}},
            {"name": "fork", "spec": {"protocol": "STDIO-fork", "command": ["prog", f"--password={fork}"]}},
        ],
        listeners=[
            listener(
                "web",
                protocol="HTTP",
                port=web,
                rules=[
                    rule("auth", {"matchHeader": {"name": "Authorization", "value": f"Bearer {key}"}}),
                    rule("cookie", {"matchCookie": {"name": "sid", "value": cookie}}),
                    rule("query", {"matchQuery": {"name": "access_token", "value": query}}),
                    rule("header", {"matchHeader": {"name": "x-my-password", "value": header}}),
                    rule("l7mp", {"op": "test", "path": "/HTTP/headers/x-api-key", "value": path}),
                    rule("set", {"matchPath": {"path": "/set"}}, rewrite=[{"path": "/HTTP/headers/authorization", "value": raw}]),
                    rule("everybody", "*", "fixed"),
                ],
            )
        ],
    )
    server = await start(conf, Log("info"), Settings(("127.0.0.1", admin), socket=None))
    server.env.gate.pid = 0
    server.log.warn("upstream said", url=f"http://john:{user}@app/")
    out = tmp_path / "bundle.tar.gz"
    command = ["gather", "-o", str(out), "--seconds", "2", "--admin", f"127.0.0.1:{admin}"]
    gathering = asyncio.create_task(asyncio.to_thread(main, command))
    fields = {"authorization": f"Bearer {sent}", "user-agent": "agent/1"}
    async with tcp(web) as held:  # a request that is still coming: among the sessions
        held.send(f"POST /held HTTP/1.1\r\nhost: x\r\nx-session-key: {sent}\r\ncontent-length: 5\r\n\r\nhe".encode())
        while not gathering.done():
            await http(web, f"/cart?token={body}", headers=fields)
            await http(web, "/", headers={"x-my-password": header})
            await asyncio.sleep(0.1)
    assert await gathering == 0, capsys.readouterr()
    await server.close()
    assert stat.S_IMODE(os.stat(out).st_mode) == 0o600
    with tarfile.open(out) as bundle:
        members = {member.name.partition("/")[2]: bundle.extractfile(member).read().decode() for member in bundle}  # type: ignore[union-attr]
        assert all(not member.name.startswith(("/", "..")) and member.mode == 0o600 for member in bundle)
    assert set(members) == PARTS
    shown = {secret for secret in SECRETS if any(secret in text for text in members.values())}
    if blind:
        assert {fork, answer, cookie, query, header, path, sent, raw, body, user, key} - shown == set()
        return
    assert shown == set()
    events = json.loads(members["requests.json"])
    assert any(event.get("path") == "/cart?(redacted)" and event["status"] == 200 for event in events)
    assert "upstream said" in members["log.txt"] and "carrier_sessions_total" in members["metrics.txt"]
    rules = {one["rule"] for one in json.loads(members["status.json"])["listeners"][0]["rules"]}
    assert {"auth", "cookie", "everybody"} <= rules and "STDIO-fork" in members["config.json"] and "libraries" in members["process.json"]
    assert all(name in members["README.txt"] for name in PARTS - {"README.txt"}) and "Not in it:" in members["README.txt"]


def test_nobody_there_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gather", "-o", str(tmp_path / "b"), "--admin", f"127.0.0.1:{free_port()}"]) == 1
    assert "no carrier answers" in capsys.readouterr().err and not (tmp_path / "b").exists()


async def test_what_cannot_be_had_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    admin = free_port()
    server = await start(config(), Log("info"), Settings(("127.0.0.1", admin), socket=None))
    server.env.gate.pid = 0
    server.api.metrics = None
    command = ["gather", "-o", "-", "--json", "--seconds", "0.1", "--admin", f"127.0.0.1:{admin}"]
    written = io.BytesIO()
    output = io.TextIOWrapper(written, write_through=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", output)
            assert await asyncio.to_thread(main, command) == 1
    finally:
        await server.close()
    said = json.loads(capsys.readouterr().err)
    assert set(said["missing"]) == {"metrics.txt"} and said["bytes"] == len(written.getvalue()) and said["file"] == "-"
    with tarfile.open(fileobj=io.BytesIO(written.getvalue())) as bundle:
        names = {name.partition("/")[2] for name in bundle.getnames()}
    assert names == PARTS - {"metrics.txt"}
