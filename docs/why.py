"""`make docs`: writes docs/why.md, ten questions that a developer has, each with the one command that answers it and what it said.

The answers are real: the cast of `carrier demo` is set up, john makes his bridge, requests are sent, and each command is run as a user
would run it. Ports, times and figures that differ from run to run are then written as in `AS`, so that the file changes only
when an answer does; a test runs all of it and compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import uvloop

from carrier.cli import main as cli
from carrier.cli.demo_asking import ask
from carrier.cli.demo_peers import HOST
from carrier.cli.demo_stage import Stage

FILE = Path(__file__).parent / "why.md"
AS = {"web": 18080, "tcp": 19000, "udp": 19001, "api": 11234, "shadow": 18001, "john's laptop": 18002, "jane's laptop": 18003}
"""The ports of the demo as the file shows them."""
INTRO = """# Why did this request go there?

Made by `make docs` from the running demo (`carrier demo`); edit docs/why.py instead. john has a bridge for `x-user: john`, jane one for
`/cart` and `x-user: jane`; everybody else is served by the shadow.

The reason is one text, made by the matcher that routes: `carrier explain`, the answer's headers, the access log and a session's events all
print it. `x-carrier-explain: 1` is heeded from this machine, unless a proxy passes the request on for somebody else, and from the
networks of a listener's `options.explain`.
"""


class Question(NamedTuple):
    """A question, the command that answers it, and what has to happen before. says: words that the answer must have."""

    text: str
    command: str
    says: str
    before: Callable[[Stage], Awaitable[object]] | None = None


async def _john_is_up(stage: Stage) -> None:
    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    body = {"port": stage.web, "user": "john", "match": match, "endpoint": f"{HOST}:{stage.john.port}", "expires": 3600}
    await ask(stage.api, "PUT", "/api/v1/bridges/john", body=body)
    match_of_jane = [{"matchPath": {"path": "/cart", "type": "prefix"}}, {"matchHeader": {"name": "x-user", "value": "jane"}}]
    body = {"port": stage.web, "user": "jane", "match": match_of_jane, "endpoint": f"{HOST}:{stage.jane.port}"}
    await ask(stage.api, "PUT", "/api/v1/bridges/jane", body=body)
    for user in ("john", "nobody"):
        await ask(stage.web, "GET", "/cart/7", {"x-user": user})


async def _john_sleeps(stage: Stage) -> None:
    await stage.john.down()


async def _john_wakes_up(stage: Stage) -> None:
    await stage.john.up()


async def _somebody_connects(stage: Stage) -> None:
    """A TCP connection that stays until the demo ends."""
    reader, writer = await asyncio.open_connection(HOST, stage.tcp)
    writer.write(b"hello")
    await reader.readexactly(5)
    stage.echoes.append(writer)


WEB = "http://127.0.0.1:{web}"
QUESTIONS = (
    Question("Who would take my request?", "carrier explain GET /cart/7 -H 'x-user: john'", "takes it", _john_is_up),
    Question(
        "Who took my request?",
        f"curl -s -o /dev/null -D - {WEB}/cart/7 -H 'x-user: john' -H 'x-carrier-explain: 1'",
        "x-carrier-rule: bridge/john",
    ),
    Question("Why does my request not come to my laptop?", "carrier explain GET /cart/7 -H 'x-user: John'", "differs only in case"),
    Question("Which rule is mine, and has it ever fired?", "carrier status", "bridge/john"),
    Question("Is my laptop reachable?", "carrier bridges check john", "is reachable"),
    Question(
        "Why the shadow, though the rule is mine?",
        f"curl -s -o /dev/null -D - {WEB}/ -H 'x-user: john' -H 'x-carrier-explain: 1'",
        "because refused",
        _john_sleeps,
    ),
    Question("What does my laptop say when it is asked now?", "carrier bridges check john", "is not reachable"),
    Question(
        "How long does my bridge live, and how do I keep it?", "carrier bridges renew john --expires 2h", "lives until", _john_wakes_up
    ),
    Question("Who else has a bridge here?", "carrier bridges", "jane"),
    Question("What is being carried at this moment, and how do I end it?", "carrier sessions", "CONNECTED", _somebody_connects),
)


def answers() -> str:
    """Play the demo and ask; the whole text of the file. Raises AssertionError when an answer lacks what it must have."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_answers())


async def _answers() -> str:
    stage = Stage()
    try:
        await stage.set_up()
        parts = [INTRO]
        for number, question in enumerate(QUESTIONS, 1):
            if question.before is not None:
                await question.before(stage)
            command = question.command.format(web=stage.web)
            said = await _run(command, stage.api)
            assert question.says in said, f"{command}: expected {question.says!r} in\n{said}"
            parts.append(f"## {number}. {question.text}\n\n```console\n$ {command}\n{said.rstrip()}\n```\n")
        return _lasting("\n".join(parts), stage)
    finally:
        await stage.tear_down()


async def _run(command: str, api: int) -> str:
    """What a command prints. `carrier` runs in a thread of this process, against the demo's API."""
    words = shlex.split(command)
    if words[0] != "carrier":
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return out.decode().replace("\r", "")
    bytes_out = io.BytesIO()
    printed = Terminal(bytes_out, encoding="utf-8")
    with contextlib.redirect_stdout(printed), mock.patch.dict(os.environ, NO_COLOR="1", COLUMNS="200"):
        await asyncio.to_thread(cli.main, [*words[1:], "--admin", f"{HOST}:{api}"])
    printed.flush()
    return bytes_out.getvalue().decode()


class Terminal(io.TextIOWrapper):
    """What is printed is as a person would see it, headings included."""

    def isatty(self) -> bool:
        return True


def _lasting(text: str, stage: Stage) -> str:
    """Without what differs from run to run."""
    ports = {stage.web: "web", stage.tcp: "tcp", stage.udp: "udp", stage.api: "api"}
    ports |= {workload.port: workload.name for workload in (stage.shadow, stage.john, stage.jane)}
    for port, name in ports.items():
        text = re.sub(rf"(?<![\d.]){port}(?!\d)", str(AS[name]), text)
    for cluster, port in (("shadow-tcp", 18004), ("shadow-udp", 18005)):
        found = stage.server.proxy.clusters[cluster].endpoints[0].port
        text = re.sub(rf"(?<![\d.]){found}(?!\d)", str(port), text)
    text = re.sub(r"TCP:127\.0\.0\.1:\d+", "TCP:127.0.0.1:50000", text)
    text = re.sub(r"\d+(\.\d+)? ms", "1 ms", text)
    text = re.sub(r"\b\d+ (s|min) ago", "1 s ago", text)
    text = re.sub(r"(?:\d{4}-\d\d-\d\d )?\b\d\d:\d\d$", "18:00", text, flags=re.MULTILINE)
    text = re.sub(r"^pid \d+, no file", "pid 41, no file", text, flags=re.MULTILINE)
    return re.sub(r"carrier \d[\w.]*, ready, revision \d+, \d+ sessions?", "carrier 0.1.0, ready, revision 3, 0 sessions", text)


def main() -> int:
    """Write the file, or, with --check, tell whether it is what would be written."""
    found = answers()
    if "--check" not in sys.argv:
        FILE.write_text(found, encoding="utf-8")
        return 0
    fresh = FILE.is_file() and FILE.read_text(encoding="utf-8") == found
    if not fresh:
        print(f"{FILE.name} is not what the commands say: run `make docs`", file=sys.stderr)
    return 0 if fresh else 1


if __name__ == "__main__":
    sys.exit(main())
