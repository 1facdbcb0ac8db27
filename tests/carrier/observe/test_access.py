"""The access log: what a line says, which lines are written, and that nobody waits for the writer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import threading
import time
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from carrier import writer as writing
from carrier.config.accesslog import Settings, read, settings_of
from carrier.core.decision import Decision, Hits
from carrier.core.ledger import Ledger
from carrier.core.trace import Tracer
from carrier.errors import ConfigError, Error
from carrier.model import Admin, Config
from carrier.observe import access, lines
from carrier.observe.access import AccessLog
from carrier.observe.lines import Lines, flags
from carrier.wire.making import answer_head, request_head
from carrier.writer import Writer, opened
from tests.conversation import Stage
from tests.e2e.test_http_bodies import answered
from tests.ports import free_port
from tests.support import cluster, config, echo, listener, port_of, running, tcp, wait_until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
BYE = OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n")
HEADER = {"matchHeader": {"name": "x-user", "value": "john"}}


@contextlib.asynccontextmanager
async def logged(env: Any, file: Path, whose: Any = lambda rule: "", **settings: Any) -> AsyncIterator[AccessLog]:
    """An access log of what happens meanwhile; on leaving, all of it is written."""
    log = AccessLog(Settings(str(file), **settings), env.loop, whose)
    env.ledger = Ledger(env.loop)
    env.ledger.readers.append(log.write)
    env.ledger.watchers.append(log.turned_away)
    try:
        yield log
    finally:
        env.ledger.settle()
        log.close()


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def request(stage: Stage, text: str, answer: bytes | None = OK) -> bytes:
    client = await stage.client()
    await client.says(text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
    if answer is not None:
        server = await stage.server()
        await server.head()
        await server.says(answer)
    head, _ = await answered(client)
    client.goes()
    return head


async def test_a_request_is_one_line_with_the_reason_of_its_routing(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file):
        await request(stage, "GET /a?b=1 HTTP/1.1\nhost: shop")
    (line,) = read_lines(file)
    assert (line["method"], line["path"], line["host"], line["status"]) == ("GET", "/a?b=1", "shop", 200)
    assert (line["listener"], line["protocol"], line["rule"], line["why"]) == ("front", "HTTP", "all", "rule all: anything")
    assert (line["cluster"], line["endpoint"]) == ("up", f"127.0.0.1:{stage.backend_port}")
    assert line["bytes_in"] == len("GET /a?b=1 HTTP/1.1\r\nhost: shop\r\n\r\n") and line["bytes_out"] == len(OK)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["client"]) and re.fullmatch(r"[0-9a-f]{32}", line["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) and 0 < line["duration_us"] < 5_000_000
    assert "error" not in line and "flags" not in line


async def test_requests_of_one_connection_are_lines_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file):
        client = await stage.client()
        asks = b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine-1\r\n\r\n"
        await client.says(asks)
        server = await stage.server()
        for turn in range(3):
            if turn:
                await client.says(asks)
            await server.head()
            await server.says(OK)
            await answered(client)
    found = read_lines(file)
    assert len(found) == 3 and {line["bytes_out"] for line in found} == {len(OK)} and len({line["bytes_in"] for line in found}) == 1
    assert {line["id"] for line in found} == {"mine-1"}


async def test_a_line_says_what_went_wrong_and_who_served_instead(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage(catch_all=False, rules=((HEADER, "up", ()),)) as stage, logged(stage.proxy.env, file):
        await request(stage, "GET / HTTP/1.1\nhost: a", None)
        stage.shuts()
        await request(stage, "GET / HTTP/1.1\nhost: a\nx-user: john", None)
    nobody, refused = read_lines(file)
    assert (nobody["status"], nobody["flags"], nobody["error"]) == (404, "NR", "no-route") and nobody["why"] == "no rule of rl matched"
    assert (refused["status"], refused["flags"], refused["error"]) == (503, "UF", "refused")
    assert refused["why"].startswith('rule r0: header x-user is "john"; failed, refused: 127.0.0.1:')


async def test_any_protocol_has_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with running(config(clusters=[echo()], listeners=[listener("in", port=0)])) as proxy, logged(proxy.env, file):
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            await client.read(5)
        await wait_until(lambda: not proxy.listeners["in"].live)
    (line,) = read_lines(file)
    assert (line["listener"], line["protocol"], line["bytes_in"], line["bytes_out"], line["cluster"]) == ("in", "TCP", 5, 5, "echo")
    assert "method" not in line and re.fullmatch(r"127\.0\.0\.1:\d+", line["client"])


async def test_headers_are_written_when_named_and_secrets_are_not(tmp_path: Path) -> None:
    file = tmp_path / "log"
    options = {"headers": ("User-Agent", "authorization", "x-own", "x-none"), "redact": ("X-Own",)}
    async with Stage() as stage, logged(stage.proxy.env, file, **options):
        await request(stage, 'GET / HTTP/1.1\nhost: a\nuser-agent: a "b"\nauthorization: Bearer s3cret\nx-own: s3cret')
    assert read_lines(file)[0]["headers"] == {"user-agent": 'a "b"', "authorization": "(redacted)", "x-own": "(redacted)"}
    assert "s3cret" not in file.read_text()


async def test_the_query_can_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, query=False):
        await request(stage, "GET /a?token=s3cret HTTP/1.1\nhost: a")
    assert read_lines(file)[0]["path"] == "/a" and "s3cret" not in file.read_text()


ENVOY = re.compile(r'\[(\S+Z)\] "(\S+) (\S+) (HTTP/1\.1|-)" (\d+) (\S+) (\d+) (\d+) (\d+) (\S+) "(.*)" "(.*)" "(.*)" "(.*)" "(\S+)"\n')


async def test_envoy_s_default_format_can_be_had(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, format="envoy"):
        await request(stage, 'POST /p HTTP/1.1\nhost: a\nuser-agent: x"y\ncontent-length: 0', BYE)
        stage.shuts()
        await request(stage, "GET / HTTP/1.1\nhost: a", None)
    first, second = (ENVOY.fullmatch(line) for line in file.read_text().splitlines(keepends=True))
    assert first is not None and second is not None
    assert first.group(2, 3, 5, 6, 7, 8) == ("POST", "/p", "200", "-", "0", "2"), first[0]
    assert first[12] == 'x\\"y' and first[14] == "a" and first[15] == f"127.0.0.1:{stage.backend_port}"
    assert second.group(5, 6) == ("503", "UF")


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [
        ({"status": 400}, [404, 500]),
        ({"status": 500}, [500]),
        ({"duration": 60.0}, []),
        ({"users": ["john"]}, [200]),
        ({"sample": 0.0}, [500]),
        ({"sample": 0.5}, [200, 500]),
    ],
)
async def test_filters_and_sampling_leave_lines_out_but_failures_are_kept(
    tmp_path: Path, settings: dict[str, Any], statuses: list[int]
) -> None:
    file = tmp_path / "log"
    rules = ((HEADER, "up", ()),)
    async with Stage(rules=rules) as stage, logged(stage.proxy.env, file, lambda rule: "john" if rule == "r0" else "", **settings):
        for status, user in ((404, "jane"), (200, "john"), (500, "jane")):
            await request(
                stage,
                f"GET / HTTP/1.1\nhost: a\nconnection: close\nx-user: {user}",
                OK.replace(b"200 OK\r\n", b"%d X\r\nconnection: close\r\n" % status),
            )
    assert [line["status"] for line in read_lines(file)] == statuses


async def test_lines_follow_a_clock_that_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file) as log:
        await request(stage, "GET /1 HTTP/1.1\nhost: a\nconnection: close", BYE)
        stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
        log.flush()
        wall = time.time
        monkeypatch.setattr("carrier.observe.lines.time.time", lambda: wall() + 86_400)
        log.flush()
        await request(stage, "GET /2 HTTP/1.1\nhost: a")
    before, after = (datetime.fromisoformat(line["time"]) for line in read_lines(file))
    assert 86_390 < (after - before).total_seconds() < 86_500


async def test_after_reopen_lines_go_to_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file) as log:
        await request(stage, "GET /1 HTTP/1.1\nhost: a\nconnection: close", BYE)
        stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
        log.flush()
        await wait_until(lambda: log.written == 1)
        file.rename(tmp_path / "log.1")
        log.reopen()
        await wait_until(file.exists)
        await request(stage, "GET /2 HTTP/1.1\nhost: a")
    assert [line["path"] for line in read_lines(tmp_path / "log.1")] == ["/1"]
    assert [line["path"] for line in read_lines(file)] == ["/2"]


def test_what_a_slow_reader_does_not_take_is_dropped_and_counted(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)  # somebody has it open and reads nothing
    writer = Writer(partial(opened, str(pipe)), 300_000)
    taken = [writer.put(b"x" * 100_000, 1) for _ in range(6)]
    assert taken[0] and not taken[-1]  # and none of these calls waited
    drained = threading.Thread(target=lambda: [os.read(held, 65536) for _ in range(100) if writer.done < writer.put_in], daemon=True)
    drained.start()
    writer.close(5)
    assert writer.written == sum(taken) and not writer.runs
    os.close(held)


def test_the_thread_is_there_only_while_there_is_something_to_write(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    writer = Writer(partial(opened, str(pipe)))
    before = {*os.listdir("/proc/self/task")}  # threads of tests before this one may end meanwhile
    writer.put(b"x" * 100_000, 1)  # more than a pipe holds
    assert {*os.listdir("/proc/self/task")} - before
    read = 0
    while read < 100_000:
        read += len(os.read(reader, 65536))
    deadline = time.monotonic() + 10
    while {*os.listdir("/proc/self/task")} - before:
        assert time.monotonic() < deadline
    writer.put(b"more", 1)
    assert os.read(reader, 10) == b"more"
    writer.close()
    assert writer.written == 2
    os.close(reader)


def test_lines_wait_while_no_thread_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    writer = Writer(partial(opened, str(tmp_path / "log")))
    with monkeypatch.context() as patch:
        patch.setattr(writing._thread, "start_new_thread", none_left)
        assert writer.put(b"one\n", 1) and writer.trouble == "can't start new thread"
    writer.close()
    assert (tmp_path / "log").read_bytes() == b"one\n"


def test_lines_that_cannot_be_written_are_counted_and_do_no_harm() -> None:
    writer = Writer(partial(opened, "/dev/full"))
    assert writer.put(b"x\n", 1)
    writer.close()
    assert (writer.written, writer.lost, writer.trouble) == (0, 1, "No space left on device")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "expected a path or an object"),
        ({"path": "x", "colour": "red"}, "$.admin.access_log.colour: unknown field 'colour' (allowed: path, format, "),
        ({"path": "x", "samples": 1}, "did you mean 'sample'?"),
        ({"path": "x", "format": "xml"}, '$.admin.access_log.format: cannot be "xml" (allowed: json, envoy)'),
        ({"path": "x", "format": []}, "$.admin.access_log.format: cannot be [] (allowed: json, envoy)"),
        ({"path": "x", "sample": 2}, "$.admin.access_log.sample: cannot be 2 (allowed: a number 0..1)"),
        ({"path": "x", "sample": float("nan")}, "$.admin.access_log.sample"),
        ({"path": "x", "sample": True}, "$.admin.access_log.sample: cannot be true"),
        ({"path": "x", "duration": -1}, "$.admin.access_log.duration: cannot be -1 (allowed: a number, 0 or more)"),
        ({"path": "x", "status": "many"}, '$.admin.access_log.status: cannot be "many" (allowed: a whole number 0..999)'),
        ({"path": "x", "users": "joe"}, '$.admin.access_log.users: cannot be "joe" (allowed: a list of texts)'),
        ({"path": "x", "redact": [1]}, "$.admin.access_log.redact: cannot be [1] (allowed: a list of texts)"),
        ({"path": "x", "query": "no"}, '$.admin.access_log.query: cannot be "no" (allowed: true or false)'),
        ({"path": ""}, '$.admin.access_log.path: cannot be "" (allowed: a file, stdout or stderr)'),
        ({"path": 1}, "$.admin.access_log.path: cannot be 1"),
        ({}, "$.admin.access_log: the access log needs 'path' (allowed: a file, stdout or stderr)"),
    ],
)
def test_settings_that_cannot_be_are_refused(value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(value)
    assert words in str(refused.value)


def test_a_path_alone_is_enough_also_under_l7mp_s_name(tmp_path: Path) -> None:
    assert read("x") == Settings("x")
    assert settings_of(Config(admin=Admin(access_log_path="y"))) == Settings("y")
    assert settings_of(Config()) is None
    with pytest.raises(ConfigError, match="cannot write the access log"):
        access._writer(str(tmp_path / "no" / "such" / "folder"))


class Ended:
    """As much of a session as flags look at."""

    def __init__(self, error: Error | None, cluster: object = None, retries: int = 0) -> None:
        self.error, self.cluster, self.retries = error, cluster, retries
        self.decision: Any = type("D", (), {"error": None, "missing": False})()


@pytest.mark.parametrize(
    ("error", "letters"),
    [
        (None, "-"),
        (Error("no-endpoint", side="upstream"), "UH"),
        (Error("refused", side="upstream"), "UF"),
        (Error("dns", side="upstream"), "DF"),
        (Error("timeout", side="upstream"), "UT"),
        (Error("timeout", side="downstream"), "SI"),
        (Error("closed", side="upstream"), "UC"),
        (Error("reset", side="upstream"), "UR"),
        (Error("reset", side="downstream"), "DC"),
        (Error("bad-answer", side="upstream"), "UPE"),
        (Error("protocol-error", side="downstream"), "DPE"),
        (Error("overload"), "UO"),
        (Error("killed"), "LR"),
        (Error("internal"), "LR"),
        (Error("config"), "LR"),
    ],
)
def test_flags_are_envoy_s(error: Error | None, letters: str) -> None:
    assert flags(Ended(error)) == letters  # type: ignore[arg-type]


def test_flags_tell_missing_clusters_shedding_and_retries() -> None:
    lost = Ended(Error("no-route"))
    lost.decision.error, lost.decision.missing = lost.error, True
    assert flags(lost) == "NC"  # type: ignore[arg-type]
    shed = Ended(Error("overload"))
    shed.decision.error = shed.error
    assert flags(shed) == "OM"  # type: ignore[arg-type]
    assert flags(Ended(Error("refused", side="upstream"), retries=2)) == "UF,URX"  # type: ignore[arg-type]


class Named(SimpleNamespace):
    __hash__ = object.__hash__


def test_what_is_remembered_with_a_head_is_for_the_same_decision_endpoint_and_sizes_only() -> None:
    owner = {"one": "john", "two": ""}
    lines, head = Lines(Settings("-"), lambda rule: owner[rule]), request_head(b"GET", b"/a", ((b"host", b"h"),))
    listener, source = SimpleNamespace(name="web", spec={"protocol": "HTTP"}), SimpleNamespace(client=b"127.0.0.1:1", peer=None)
    decisions = [Decision(rule, "rules", Hits()) for rule in owner]
    for decision in decisions:
        decision.cluster = Named(name=f"for-{decision.rule}")  # type: ignore[assignment]
    endpoints = [Named(name=name, address=name) for name in ("e1", "e2")]
    answers = [answer_head(status) for status in (200, 404)]
    told = [choice for choice in product(decisions, endpoints, answers, (7, 8), (70, 80)) for _ in range(3)]
    random.Random(1).shuffle(told)
    told += [(decisions[0], endpoints[0], answers[0], 7, 70)] * 3
    for order in (told, told[::-1]):  # the second round begins with what was remembered last in the first
        records = [
            (listener, source, 1.0, 2.0, head, d, e, a, got, sent, b"x-request-id: " + b"0" * 32 + b"\r\n\r\n", 7)
            for d, e, a, got, sent in order
        ]
        for (decision, endpoint, answer, got, sent), line in zip(order, lines.json(records).splitlines(), strict=True):  # type: ignore[arg-type]
            seen = json.loads(line)
            assert (seen["rule"], seen["cluster"], seen["endpoint"]) == (decision.rule, f"for-{decision.rule}", endpoint.address)
            assert (seen["status"], seen["bytes_in"], seen["bytes_out"], seen["path"]) == (answer.status, got, sent, "/a")
            assert seen.get("user", "") == owner[decision.rule]
        owner["one"] = "jane"
        lines.forget()
    assert head.log_line is not None


async def test_a_change_of_the_configuration_makes_lines_anew(tmp_path: Path) -> None:
    file = tmp_path / "log"
    owner = {"all": "john"}
    async with Stage() as stage, logged(stage.proxy.env, file, lambda rule: owner[rule]) as log:
        log.revision = lambda: stage.proxy.config.revision
        log.seen = stage.proxy.config.revision
        for user in ("john", "jane"):
            owner["all"] = user
            conf = stage.proxy.config
            await stage.proxy.apply(msgspec.structs.replace(conf, revision=conf.revision + 1))
            log.flush()
            await request(stage, "GET / HTTP/1.1\nhost: a\nconnection: close", BYE)
            stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
    assert [line["user"] for line in read_lines(file)] == ["john", "jane"]


async def test_a_session_that_no_line_can_be_made_of_costs_its_own_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file) as log:
        await request(stage, "GET /1 HTTP/1.1\nhost: a\nconnection: close", BYE)
        stray: list[str] = []
        stage.proxy.env.loop.set_exception_handler(lambda _, context: stray.append(str(context["message"])))
        stage.proxy.env.ledger.ended.insert(0, object())  # type: ignore[union-attr, arg-type]
        stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
        assert log.dropped == 1 and len(stray) == 1 and stray[0].startswith("no access log line could be made: ")
    assert [line["path"] for line in read_lines(file)] == ["/1"]


async def test_a_request_that_is_refused_before_it_is_a_session_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage(listener={"max_head": 2000}) as stage, logged(stage.proxy.env, file):
        await request(stage, "POST /a?b=1 HTTP/1.1\nhost: shop\ncontent-length: +5", None)
        await request(stage, "CONNECT shop:443 HTTP/1.1\nhost: shop:443", None)
        await request(stage, "GET /long HTTP/1.1\nhost: shop\nx: " + "y" * 2000, None)
        await request(stage, "\x16\x03\x01 hello", None)
    length, connect, long, tls = read_lines(file)
    assert (length["method"], length["path"], length["status"]) == ("POST", "/a?b=1", 400)
    assert (length["listener"], length["protocol"], length["error"], length["flags"]) == ("front", "HTTP", "protocol-error", "DPE")
    assert length["why"] == "refused, protocol-error: Content-Length (2 bytes at offset 50) is not one decimal number"
    assert length["bytes_in"] == len("POST /a?b=1 HTTP/1.1\r\nhost: shop\r\ncontent-length: +5\r\n\r\n") and length["bytes_out"] > 100
    assert re.fullmatch(r"127\.0\.0\.1:\d+", length["client"]) and 0 <= length["duration_us"] < 5_000_000
    assert (connect["method"], connect["path"], connect["status"]) == ("CONNECT", "shop:443", 501)
    assert (long["method"], long["path"], long["status"], long["error"]) == ("GET", "/long", 431, "headers-too-large")
    assert (tls["request"], tls["status"]) == ("(9 bytes)", 400) and "method" not in tls


async def test_a_head_that_never_ends_has_its_line_and_so_has_a_body_that_is_too_slow(tmp_path: Path) -> None:
    file = tmp_path / "log"
    options = {"header_timeout": 0.2, "body_grace": 0.2}
    async with Stage(listener=options) as stage, logged(stage.proxy.env, file):
        loop, late = stage.proxy.env.loop, 60
        client = await stage.client()
        await client.says(b"GET /slow HTTP/1.1\r\nhost: a\r\nx-secr")
        await wait_until(lambda: any(c.reader.pending for c in stage.listener.connections))  # type: ignore[attr-defined]
        stage.listener.tick(loop.time() + late)
        assert (await client.head()).startswith(b"HTTP/1.1 408 ")
        body = await stage.client()
        await body.says(b"POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\nx")
        await (await stage.server()).head()
        stage.listener.tick(loop.time() + 2 * late)
        assert (await body.head()).startswith(b"HTTP/1.1 408 ")
    slow, upload = read_lines(file)
    assert (slow["method"], slow["path"], slow["status"], slow["flags"]) == ("GET", "/slow", 408, "SI")
    assert "options.header_timeout" in slow["why"]
    assert (upload["method"], upload["path"], upload["status"], upload["flags"]) == ("POST", "/body", 408, "SI")


async def test_refused_requests_are_filtered_and_sampled_as_the_good_ones_are(tmp_path: Path) -> None:
    bad = "GET /a?secret=1 HTTP/1.1\nhost : a"
    for name, settings, wanted in (
        ("half", {"sample": 0.5}, 2),
        ("server errors", {"status": 500}, 0),
        ("slow ones", {"duration": 5.0}, 0),
        ("of john", {"users": ("john",)}, 0),
        ("no query", {"query": False}, 4),
    ):
        file = tmp_path / name
        async with Stage() as stage, logged(stage.proxy.env, file, **settings):
            for _ in range(4):
                await request(stage, bad, None)
        assert len(read_lines(file)) == wanted, name
        assert name != "no query" or "secret" not in file.read_text()


async def test_a_refused_request_in_the_format_of_envoy(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, format="envoy"):
        await request(stage, 'GET /"x HTTP/1.1\nhost: a', None)
        await request(stage, "nonsense", None)
    first, second = file.read_text().splitlines()
    assert re.fullmatch(r'\[[^]]+\] "GET /\\"x HTTP/1\.1" 400 DPE 0 \d+ \d+ - "-" "-" "-" "-" "-"', first)
    assert '"- (8 bytes) -" 400 DPE' in second


async def test_what_a_connection_sends_behind_its_limit_of_connections_is_told(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage(listener={"max_connections": 1}) as stage, logged(stage.proxy.env, file):
        busy = await stage.client()
        await busy.says(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        server = await stage.server()
        await server.head()
        late = await stage.client()
        assert (await late.head()).startswith(b"HTTP/1.1 503 ")
        await server.says(BYE)
        await busy.head()
    turned_away, _ = read_lines(file)
    assert (turned_away["status"], turned_away["error"], turned_away["flags"]) == (503, "overload", "OM")
    assert "options.max_connections" in turned_away["why"]


@pytest.mark.parametrize(
    ("begun", "parts"),
    [
        (b"GET /x HTTP/1.1\r\nhost: a", (b"GET", b"/x", b"HTTP/1.1")),
        (b"GET /x", (b"GET", b"/x", b"")),
        (b"GET", (b"", b"GET", b"")),
        (b"G\0T /x HTTP/1.1", (b"", b"G\0T /x HTTP/1.1", b"")),
        (b"", (b"", b"", b"")),
        (b"GET /" + b"x" * 5000, (b"GET", b"/" + b"x" * (lines.SHOWN - 5), b"")),
    ],
)
def test_a_first_line_is_told_apart_as_far_as_it_is_there(begun: bytes, parts: tuple[bytes, bytes, bytes]) -> None:
    assert lines.first_line(begun) == parts


TRACED = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
EVERY = ("trace", "upstream", "first_byte", "retries", "agent")


async def test_more_fields_are_written_by_option_for_requests_on_the_lane_and_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "log"
    asks = f"GET / HTTP/1.1\nhost: a\nuser-agent: t\n{TRACED}"
    async with Stage() as stage, logged(stage.proxy.env, file, fields=EVERY):
        client = await stage.client()
        server = None
        for _ in range(3):  # the first reaches for a connection; the others have one
            await client.says(asks.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            server = server or await stage.server()
            await server.head()
            await asyncio.sleep(0.02)
            await server.says(OK)
            await answered(client)
        await client.says(asks.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        assert server is not None
        await server.head()
        await server.says(OK[:-1])
        await client.hears(len(OK) - 1)
        await asyncio.sleep(0.02)
        await server.says(OK[-1:])
        await client.hears(1)
        client.goes()
    found = read_lines(file)
    assert len(found) == 4
    for line in found:
        assert (line["trace_id"], line["version"], line["agent"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "1.1", "t") and line[
            "retries"
        ] == 0
        assert 15_000 < line["upstream_us"] <= line["duration_us"] and 0 < line["first_byte_us"] <= line["duration_us"]
    assert found[1]["upstream_us"] == found[1]["first_byte_us"] == found[1]["duration_us"]
    assert found[3]["duration_us"] - found[3]["first_byte_us"] > 15_000, "its answer came in two pieces"


async def test_the_envoy_format_has_the_upstreams_time_in_its_column_and_the_rest_behind(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, format="envoy", fields=EVERY):
        await request(stage, f"GET / HTTP/1.1\nhost: a\nuser-agent: t\n{TRACED}")
    (line,) = file.read_text().splitlines()
    pattern = rf'.* \d+ \d+ \d+ \d+ "-" "t" "[0-9a-f]{{32}}" "a" "127.0.0.1:\d+" trace_id={TRACED[16:48]} first_byte_us=\d+ retries=0'
    assert re.fullmatch(pattern, line)


async def test_the_id_of_a_trace_of_ours_is_always_written_and_an_agent_may_be_redacted(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, fields=("agent",), redact=("user-agent",)):
        stage.proxy.env.tracer = Tracer(1)
        await request(stage, "GET / HTTP/1.1\nhost: a\nuser-agent: secret")
    (line,) = read_lines(file)
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"]) and line["agent"] == "(redacted)" and "secret" not in file.read_text()


async def test_nothing_is_told_of_an_answer_that_never_came(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with Stage() as stage, logged(stage.proxy.env, file, fields=EVERY):
        stage.shuts()
        await request(stage, "GET / HTTP/1.1\nhost: a", None)
    (line,) = read_lines(file)
    assert line["error"] == "refused" and not {"upstream_us", "first_byte_us", "trace_id", "agent"} & set(line)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        read({"path": "x", "fields": ["trac"]})
    assert error.value.problems[0].path == "$.admin.access_log.fields" and "first_byte" in error.value.problems[0].allowed


@pytest.mark.parametrize("style", ["json", "envoy"])
async def test_the_endpoint_that_could_not_be_reached_is_told(tmp_path: Path, style: str) -> None:
    path, gone = tmp_path / "access.log", free_port()
    up = cluster("up", gone, protocol="HTTP")
    async with running(config(clusters=[up], listeners=[listener("web", "up", protocol="HTTP", port=0)])) as proxy:
        log = AccessLog(Settings(str(path), format=style), proxy.env.loop)
        proxy.env.read(log.write)
        async with tcp(port_of(proxy, "web")) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert b" 503 " in await client.read_all()
        proxy.env.ledger.settle()  # type: ignore[union-attr]
        log.close()
    (line,) = path.read_text().splitlines()
    assert (json.loads(line)["endpoint"] if style == "json" else line.rsplit('"', 2)[1]) == f"127.0.0.1:{gone}"
