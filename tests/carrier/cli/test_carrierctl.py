"""carrierctl as an operator's exec runs it: a process of its own, against a proxy's unix socket."""

import asyncio
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from carrier.cli import carrierctl
from carrier.log import Log
from carrier.model import Config
from carrier.process import serve
from tests.ports import free_port

SCRIPT = Path(carrierctl.__file__)
LISTENER = {
    "name": "in",
    "spec": {"protocol": "HTTP", "port": 0, "address": "127.0.0.1"},
    "rules": [{"action": {"route": {"destination": {"name": "shadow", "spec": {"protocol": "Echo"}}}}}],
}


@pytest.fixture
async def socket(tmp_path):
    """The socket of a running proxy."""
    path = str(tmp_path / "api.sock")
    server = await serve.start(Config(), Log("error"), serve.Settings(admin=None, socket=path))
    try:
        yield path
    finally:
        await server.close()


async def ctl(*arguments, stdin=None, **environment):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-ISB", str(SCRIPT), *arguments, stdin=-1, stdout=-1, stderr=-1, env={**os.environ, **environment}
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 20)
    return process.returncode, out.decode(), err.decode()


async def test_a_bridge_is_made_in_one_call_and_the_answer_says_its_revision(socket):
    listener = {**LISTENER, "spec": {**LISTENER["spec"], "port": free_port()}}
    assert (await ctl("-s", socket, "POST", "listeners", json.dumps({"listener": listener})))[0] == 0
    bridge = {"listener": "in", "user": "john", "match": {"matchHeader": {"name": "x", "value": "j"}}, "endpoint": "10.0.0.9:80"}
    status, out, _ = await ctl("-s", socket, "-i", "PUT", "bridges/john", "-", stdin=json.dumps(bridge).encode())
    code, revision = out.splitlines()[0].split()
    assert (status, code, int(revision) > 1) == (0, "201", True)
    status, out, _ = await ctl("GET", "/api/v1/bridges/john", CARRIER_SOCKET=socket)
    assert (status, json.loads(out)["user"]) == (0, "john")
    valid = {**bridge, "user": "jane", "name": "jane"}
    status, out, _ = await ctl("-s", socket, "POST", "bridges:validate", json.dumps(valid))
    assert (status, json.loads(out)["valid"]) == (0, False)
    assert "bridge 'john' of user john has the same rule already" in json.loads(out)["reasons"][0]
    assert (await ctl("-s", socket, "POST", "bridges/john", '{"expires": 60}'))[0] == 0


async def test_a_refusal_is_exit_status_1_with_the_reason(socket):
    status, out, _ = await ctl("-s", socket, "PUT", "bridges/john", "{}")
    assert status == 1
    assert "a bridge needs 'port'" in out


async def test_nobody_there_is_exit_status_3_and_bad_usage_2(tmp_path):
    status, _, err = await ctl("-s", str(tmp_path / "none.sock"), "GET", "bridges")
    assert (status, "No such file" in err) == (3, True)
    assert (await ctl())[0] == 2
    for target in ("a b", "bridges/jürgen", "a\r\nx: y"):
        status, _, err = await ctl("-s", "x", "GET", target)
        assert (status, "percent-encoded" in err) == (2, True)
    status, out, _ = await ctl("--help")
    assert (status, out.startswith("usage: carrierctl")) == (0, True)


def test_it_starts_about_as_fast_as_python_itself():
    """Processor seconds, beside an interpreter that does nothing: half as many again, as it is compiled each time."""
    own, bare = [], []
    for _ in range(5):
        own.append(used_by(str(SCRIPT)))
        bare.append(used_by("-c", "pass"))
    assert min(own) < 3 * min(bare), (own, bare)


def used_by(*arguments):
    """Processor seconds of a Python without anything but what is built in."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-ISB", *arguments], capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("answer", [b"", b"hello", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", b"HTTP/1.1 x\r\n\r\n"])
def test_half_an_answer_is_none(answer):
    with pytest.raises(ValueError):
        carrierctl.parse(answer)


def test_chunks_are_put_together():
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncarrier-revision: 7\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert carrierctl.parse(answer) == (200, "7", b"abcde")
    with pytest.raises(ValueError):
        carrierctl.parse(answer[:-12])
