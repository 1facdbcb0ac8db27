"""The command as a user calls it: files good and bad, exit statuses, signals; in processes of its own where it serves."""

import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from carrier import log
from carrier.cli import main as cli
from carrier.cli.demo_stage import free_ports
from carrier.cli.parser import DEFAULT_ADMIN
from carrier.errors import ConfigError, Error
from carrier.writer import to_descriptor
from tests import forked

COMMAND = [sys.executable, "-m", "carrier"]

GOOD = """
listeners:
  - name: echo
    spec: {{protocol: TCP, port: {port}, address: 127.0.0.1}}
    rules:
      - action: {{route: {{destination: {{spec: {{protocol: Echo}}}}}}}}
"""

BAD = """
listeners:
  - name: web
    spec: {protocol: HTTPP, port: 80}
    rules:
      - action: {route: {destination: nowhere}}
      - match: {matchHeader: {name: x-user, valeu: john}}
        action: {route: {destination: nowhere}}
"""

L7MP = """
# Controller on {admin} only
admin:
  log_level: info
listeners:
  - name: controller-listener
    spec: {{ protocol: HTTP, port: {admin} }}
    rules:
      - action:
          route:
            destination:
              name: l7mp-controller
              spec: {{ protocol: L7mpController }}
"""


@pytest.fixture
def ports():
    return free_ports(2)


@pytest.fixture
def good(tmp_path, ports):
    file = tmp_path / "good.yaml"
    file.write_text(GOOD.format(port=ports[0]))
    return file


@pytest.fixture
def bad(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    return file


def wait_for(condition, patience=10.0):
    """Until a condition holds."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def connect(port, process, patience=10.0):
    """A connection to the process, as soon as it accepts."""
    until = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except ConnectionRefusedError:
            if time.monotonic() > until or process.poll() is not None:
                raise
            time.sleep(0.01)


@contextmanager
def running(*arguments, port):
    """`carrier ARGUMENTS` in a process that accepts on `port`."""
    quick = ["--admin-socket", "off", "--drain-delay", "0"]
    process = forked.Popen([*COMMAND, *arguments, *quick], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        connect(port, process).close()
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments, **more):
    return forked.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=20, **more)


# -- check


def test_check_says_that_a_file_is_fine(good, capsys):
    assert cli.main(["check", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: fine (1 listener, 1 cluster, 1 rule; 0 warnings)\n"


def test_check_tells_all_errors_at_once_with_line_column_and_near_misses(bad, capsys):
    assert cli.main(["check", str(bad)]) == 2
    text = capsys.readouterr().err
    assert f"{bad}:4:22: error: $.listeners[0].spec.protocol: unknown protocol 'HTTPP'" in text
    assert "did you mean 'HTTP'?" in text
    assert f"{bad}:6:39: error: $.listeners[0].rules[0].action.route.destination: cluster 'nowhere' is not defined" in text
    assert "did you mean 'value'?" in text
    assert text.rstrip().endswith(f"{bad}: refused (5 errors)")


def test_dangling_names_are_warnings_when_allowed(tmp_path, capsys):
    file = tmp_path / "dangling.yaml"
    file.write_text("listeners:\n  - {name: a, spec: {protocol: TCP, port: 80}, rules: [{action: {route: {destination: nowhere}}}]}\n")
    assert cli.main(["check", str(file)]) == 2
    assert cli.main(["check", str(file), "--allow-dangling"]) == 0
    assert "warning:" in capsys.readouterr().out


def test_check_warns_of_duplicates_and_of_datagrams_into_a_byte_stream(tmp_path, capsys):
    rule = "{match: {matchSource: {cidr: 10.0.0.0/8}}, action: {route: {destination: c}}}"
    file = tmp_path / "odd.yaml"
    file.write_text(
        "clusters:\n  - {name: c, spec: {protocol: TCP, port: 9}, endpoints: [{spec: {address: 127.0.0.1}}]}\n"
        f"listeners:\n  - {{name: u, spec: {{protocol: UDP, port: 5300}}, rules: [{rule}, {rule}]}}\n"
    )
    assert cli.main(["check", str(file)]) == 0
    text = capsys.readouterr().out
    assert "has the same conditions" in text
    assert "takes datagrams" in text
    assert ":4:" in text


def test_check_of_a_file_that_is_not_there(capsys):
    assert cli.main(["check", "/nonexistent/file.yaml"]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_check_reads_standard_input():
    found = run("check", "-", input="listeners: [")
    assert found.returncode == 2
    assert "not YAML" in found.stderr


def test_output_into_a_closed_pipe_is_no_stack_trace(bad):
    found = subprocess.run(
        f"{sys.executable} -m carrier check {bad} 2>&1 | head -c 1", shell=True, capture_output=True, text=True, timeout=20
    )
    assert "Traceback" not in found.stdout + found.stderr


# -- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run", "-c"],
        ["check"],
        ["run", "-c", "x", "-l", "loud"],
        ["run", "-c", "x", "--admin", "nowhere"],
        ["run", "-c", "x", "--admin", ":99999"],
        ["run", "-c", "x", "--drain", "-1"],
        ["run", "-c", "x", "--drain", "nan"],
    ],
)
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("carrier") and said.endswith(" --help has examples\n")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["rum"], "did you mean 'run'?"),
        (["brigdes"], "did you mean 'bridges'?"),
        (["status", "--jsn"], "unrecognized arguments: --jsn; did you mean '--json'?"),
        (["run", "-c", "x", "--limt", "3"], "did you mean '--limit'?"),
        (["bridges", "lst"], "did you mean 'list'?"),
    ],
)
def test_what_was_probably_meant_is_said(arguments, hint, capsys):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin", "/x.sock", "status"], "put --admin /x.sock after the command: carrier status --admin /x.sock"),
        (["-l", "info", "status"], "carrier status has no option -l"),
    ],
)
def test_an_option_before_the_command_is_told_its_place(arguments, said, capsys):
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_who_says_nothing_is_helped(capsys):
    assert cli.main([]) == 2
    text = capsys.readouterr().out
    assert "examples:" in text and text.count("\n  carrier ") == 5
    assert cli.main(["help"]) == 0


def test_without_a_file_the_usual_ones_are_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run"]) == 2
    assert "there is no carrier.yaml, carrier.yml, carrier.json here" in capsys.readouterr().err
    (tmp_path / "carrier.yaml").write_text("listeners: 7\n")
    assert cli.main(["run"]) == 2
    assert "carrier.yaml:1:12: error: $.listeners: cannot be 7" in capsys.readouterr().err


def test_several_files_are_checked_each_with_its_answer(good, tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text("listeners: 7\n")
    assert cli.main(["check", str(good), str(bad)]) == 2
    said = capsys.readouterr()
    assert f"{good}: fine (" in said.out and f"{bad}: refused (1 error)" in said.err


def test_certificates_that_cannot_be_read_are_errors_of_the_file(tmp_path, capsys):
    file = tmp_path / "tls.yaml"
    file.write_text(
        "listeners:\n  - name: web\n    spec: {protocol: HTTP, port: 1, tls: {certificate: /nope/c.pem, key: /nope/k.pem}}\n"
        "    rules: [{action: {route: {destination: {spec: {protocol: HTTP, port: 2, tls: {ca: /nope/ca.pem}}}}}}]\n"
    )
    assert cli.main(["check", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}:3:42: error: $.listeners[0].spec.tls: cannot read /nope/c.pem: No such file or directory" in said
    assert "cannot read /nope/ca.pem" in said and "4:" in said


def test_weights_that_no_policy_looks_at_are_a_warning(tmp_path, capsys):
    file = tmp_path / "w.yaml"
    endpoints = "[{spec: {address: 10.0.0.1}}, {spec: {address: 10.0.0.2}, weight: 9}]"
    text = f"clusters:\n  - name: c\n    spec: {{protocol: TCP, port: 1}}\n    endpoints: {endpoints}\n"
    file.write_text(text)
    assert cli.main(["check", str(file)]) == 0
    assert "warning: $.clusters[0].endpoints: cluster 'c' has endpoints of different weight" in capsys.readouterr().out
    file.write_text(text + "    loadbalancer: {policy: round_robin}\n")
    assert cli.main(["check", str(file)]) == 0
    assert "0 warnings" in capsys.readouterr().out


def test_help_and_version_exit_0(capsys):
    for arguments in (["--help"], ["--version"], ["-V"], ["run", "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
    assert "carrier 0." in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = "import sys; from carrier.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20).stdout
    assert not [name for name in ("asyncio", "uvloop", "yaml", "re2", "msgspec", "h11") if f"'{name}'" in found]


def test_an_admin_address_that_others_reach_is_refused(good, capsys):
    for address in ("0.0.0.0:1234", "192.0.2.1:80", "[::]:1234", "example.org:80"):
        assert cli.main(["run", "-c", str(good), "--admin", address]) == 2
    assert "--insecure-admin" in capsys.readouterr().err


# -- run


def test_run_refuses_a_bad_file_with_every_error(bad):
    found = run("run", "-c", str(bad), "--admin", "off")
    assert found.returncode == 2
    assert found.stderr.count(": error: ") == 5


def test_run_exits_2_when_a_protocol_refuses_its_spec_and_check_says_so_too(tmp_path, ports):
    file = tmp_path / "udp.yaml"
    file.write_text(GOOD.format(port=ports[0]).replace("TCP", "UDP, options: {mode: singleton}"))
    assert run("run", "-c", str(file), "--admin", "off").returncode == 2
    found = run("check", str(file))
    assert found.returncode == 2
    assert "$.listeners[0].spec.options.mode: singleton mode needs connect.address and connect.port" in found.stderr


def test_run_exits_3_when_an_address_is_in_use(good, ports):
    with socket.create_server(("127.0.0.1", ports[0])):
        found = run("run", "-c", str(good), "--admin", "off")
    assert found.returncode == 3
    assert f"Could not bind to 127.0.0.1:{ports[0]}" in found.stderr
    assert f"(process {os.getpid()}) has it" in found.stderr


def test_run_exits_3_when_a_udp_address_is_in_use(tmp_path, ports):
    file = tmp_path / "udp.yaml"
    file.write_text(GOOD.format(port=ports[0]).replace("TCP", "UDP"))
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", ports[0]))
        found = run("run", "-c", str(file), "--admin", "off")
    assert found.returncode == 3
    assert f"(process {os.getpid()}) has it" in found.stderr


def test_a_low_port_that_is_not_allowed_is_told_what_it_takes():
    denied = Error("bind", f'"web": Could not bind to [::]:80: {os.strerror(errno.EACCES)}')
    assert "CAP_NET_BIND_SERVICE" in cli._bind_hint(denied)
    assert cli._bind_hint(Error("bind", f'"web": Could not bind to [::]:8080: {os.strerror(errno.EACCES)}')) == ""


def test_run_exits_2_when_the_log_file_cannot_be_written(good):
    good.write_text("admin: {log_file: /nonexistent/carrier.log}\n" + good.read_text())
    found = run("run", "-c", str(good), "--admin", "off")
    assert found.returncode == 2
    assert "/nonexistent/carrier.log" in found.stderr


def test_an_admin_port_that_was_asked_for_and_is_taken_exits_3(good, ports):
    with socket.create_server(("127.0.0.1", ports[1])):
        found = run("run", "-c", str(good), "--admin", f"127.0.0.1:{ports[1]}", "--admin-socket", "off")
    assert found.returncode == 3
    assert f"127.0.0.1:{ports[1]}" in found.stderr


def test_the_default_admin_port_is_a_warning_when_it_is_taken(good, ports):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            stack.enter_context(socket.create_server(DEFAULT_ADMIN))
        process = stack.enter_context(running("run", "-c", str(good), port=ports[0]))
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "the REST API has no TCP address" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(good, ports, number):
    with running("run", "-c", str(good), "--admin", "off", port=ports[0]) as process:
        process.send_signal(number)
        _, text = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"listening listener=echo protocol=TCP address=127.0.0.1:{ports[0]}" in text
    assert f"draining why={number.name}" in text
    assert "ended cut=0" in text


def test_what_is_in_flight_is_finished_and_nothing_new_is_taken(good, ports):
    with running("run", "-c", str(good), "--admin", "off", port=ports[0]) as process, connect(ports[0], process) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        process.send_signal(signal.SIGTERM)
        assert any("draining" in line for line in process.stderr)
        client.sendall(b"after")
        assert client.recv(100) == b"after"
        deadline = time.monotonic() + 10
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionResetError):  # one that comes in the very moment of closing is taken, or reset
                    socket.create_connection(("127.0.0.1", ports[0]), 5).close()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
        assert process.wait(10) == 0


def test_a_request_in_flight_is_answered_and_an_idle_connection_does_not_hold_the_end(tmp_path, ports):
    with socket.create_server(("127.0.0.1", 0)) as backend:
        cluster = f"{{spec: {{protocol: HTTP, port: {backend.getsockname()[1]}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}"
        file = tmp_path / "web.yaml"
        file.write_text(GOOD.format(port=ports[0]).replace("TCP", "HTTP").replace("{spec: {protocol: Echo}}", cluster))
        with (
            running("run", "-c", str(file), "--admin", "off", port=ports[0]) as process,
            connect(ports[0], process) as client,
            connect(ports[0], process),
        ):
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            upstream, _ = backend.accept()
            assert upstream.recv(4096).startswith(b"GET /slow")
            process.send_signal(signal.SIGTERM)
            next(line for line in process.stderr if "draining" in line)
            upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"done")
            assert process.wait(5) == 0
            upstream.close()


def test_what_another_carrier_has_is_refused_and_it_does_not_notice(good, ports, tmp_path):
    socket_file, state = tmp_path / "c.sock", tmp_path / "state"
    arguments = ["run", "-c", str(good), "--admin", "off", "--drain-delay", "0"]
    first = forked.Popen([*COMMAND, *arguments, "--admin-socket", str(socket_file), "--state", str(state)], stderr=subprocess.DEVNULL)
    try:
        with connect(ports[0], first) as client:
            wait_for(socket_file.exists)
            same_state = run(*arguments, "--admin-socket", "off", "--state", str(state))
            assert same_state.returncode == 2 and "another carrier keeps its state there" in same_state.stderr
            same_socket = run(*arguments, "--admin-socket", str(socket_file))
            assert same_socket.returncode == 3 and "another carrier answers there" in same_socket.stderr
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
        assert cli.main(["status", "--admin", str(socket_file)]) == 0
        first.terminate()
        assert first.wait(10) in (0, 5)
    finally:
        first.kill()
    assert not socket_file.exists()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_it_runs_without_standard_streams_and_gives_their_numbers_to_nobody(good, ports, closed):
    """A socket that is number 2 would be sent the log."""
    command = f"exec {' '.join(COMMAND)} run -c {good} --admin off --access-log stdout --drain-delay 0 {closed}"
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(ports[0], process) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            numbers = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)]
        assert numbers == ["/dev/null"] * 3
        process.terminate()
        assert process.wait(10) in (0, 5)
    finally:
        process.kill()


def test_the_drain_has_an_end(good, ports):
    with running("run", "-c", str(good), "--admin", "off", "--drain", "0.3", port=ports[0]) as process, connect(ports[0], process):
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 5
        assert time.monotonic() - began < 3


def test_a_second_signal_ends_at_once(good, ports):
    with running("run", "-c", str(good), "--admin", "off", "--drain", "60", port=ports[0]) as process, connect(ports[0], process) as client:
        client.sendall(b"x")
        client.recv(1)
        process.send_signal(signal.SIGTERM)
        next(line for line in process.stderr if "draining" in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 5


def ask(port, path, method="GET", body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1{path}", json.dumps(body).encode() if body else None, method=method)
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_an_l7mp_file_and_its_command_line_run_unchanged(tmp_path, ports):
    file = tmp_path / "l7mp-minimal.yaml"
    file.write_text(L7MP.format(admin=ports[0]))
    with running("-c", str(file), "-s", "-l", "info", "-o", "init", "-i", "lo,eth0", port=ports[0]) as process:
        status, admin = ask(ports[0], "/admin")
        assert (status, admin["strict"], admin["log_level"]) == (200, True, "info")
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=10)
    assert "kernel offload is not there yet" in text


def test_bridges_are_made_over_rest_and_expire_in_the_running_proxy(tmp_path, ports):
    file = tmp_path / "web.yaml"
    file.write_text(GOOD.format(port=ports[0]).replace("TCP", "HTTP"))
    with running("run", "-c", str(file), "--admin", f"127.0.0.1:{ports[1]}", port=ports[1]) as process:
        match = {"matchHeader": {"name": "x-user", "value": "john"}}
        bridge = {"port": ports[0], "user": "john", "match": match, "endpoint": "127.0.0.1:9", "expires": 0.5}
        assert ask(ports[1], "/bridges/john", "PUT", bridge)[0] == 201
        assert ask(ports[1], "/bridges/john")[1]["user"] == "john"
        status, answer = ask(ports[1], "/bridges/eve", "PUT", {**bridge, "user": "eve"})
        assert status == 409
        assert "bridge 'john' of user john" in answer["content"]
        assert any("bridge is over bridge=john" in line for line in process.stderr)
        assert ask(ports[1], "/bridges/john")[1]["status"]["state"] == "expired"


def test_it_starts_about_as_fast_as_its_libraries_are_imported_and_stays_small(good, ports):
    """Processor seconds until it listens, beside an interpreter that imports what it needs: on a quiet machine 1.6 times as many."""
    times, imports = [], []
    for _ in range(3):
        with running("run", "-c", str(good), "--admin", "off", "-l", "error", port=ports[0]) as process:
            used = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            times.append((int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK"))
            with open(f"/proc/{process.pid}/status") as status:
                resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import asyncio, uvloop, h11, msgspec, yaml, argparse, logging, ssl"], check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        imports.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 4 * min(imports), (times, imports)
    assert resident < 45 * 1024


# -- the log


def lines_of(level, write):
    lines: list[str] = []
    write(log.Log(level, lines.append, lambda: 1_800_000_000.0))
    return lines


def test_a_line_has_time_level_event_and_values():
    lines = lines_of("info", lambda log: log.info("listening", listener="web", port=80, why=None, after=0.25))
    assert lines == ["2027-01-15T08:00:00.000Z info    listening listener=web port=80 after=0.25\n"]


def test_a_value_cannot_forge_a_line_or_a_field():
    lines = lines_of("info", lambda log: log.info("ended", session='a b=c "d"\n2027 error x', path=b"\xff\x1b[31m"))
    assert len(lines) == 1
    assert lines[0].count("\n") == 1
    assert r'session="a b=c \"d\"\x0a2027 error x"' in lines[0]
    assert "\x1b" not in lines[0]


def test_levels_below_the_chosen_one_are_off():
    def write(log):
        for level in ("silly", "verbose", "debug", "info", "notice", "warn", "error"):
            getattr(log, level)("x")

    assert [len(lines_of(level, write)) for level in log.LEVELS] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigError, match="unknown log level"):
        log.Log("loud")


def test_a_reader_that_is_gone_costs_the_line_only():
    reader, writer = os.pipe()
    os.close(reader)
    write = to_descriptor(writer)
    log.Log("info", write).info("x")
    os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # and somebody is there again
    seen = []
    log.Log("info", lambda line: (write(line), seen.append(line))).info("y")
    os.close(writer)
    assert seen and seen[0].endswith("y\n")


def test_the_log_goes_to_the_file_named(tmp_path):
    log.open_log("info", str(tmp_path / "carrier.log")).info("one")
    log.open_log("info", str(tmp_path / "carrier.log")).info("two")
    assert [line.split()[2] for line in (tmp_path / "carrier.log").read_text().splitlines()] == ["one", "two"]


def test_a_log_that_was_moved_away_goes_on_in_a_new_file_and_one_that_cannot_goes_on_where_it_was(tmp_path):
    file, old = tmp_path / "carrier.log", tmp_path / "carrier.log.1"
    found = log.open_log("info", str(file))
    found.info("before")
    file.rename(old)
    found.info("between")
    found.reopen()
    found.info("after")
    assert [line.split()[-1] for line in old.read_text().splitlines()] == ["before", "between"]
    assert file.read_text().endswith(" after\n")
    tmp_path.rename(gone := tmp_path.with_name("gone"))
    try:
        found.reopen()
        found.info("still")
        assert "the log file cannot be opened again" in (gone / "carrier.log").read_text()
        assert (gone / "carrier.log").read_text().endswith(" still\n")
    finally:
        gone.rename(tmp_path)


def test_sigusr1_moves_the_process_s_log_on(good, ports):
    file = good.parent / "carrier.log"
    good.write_text(f"admin: {{log_file: {file}}}\n" + good.read_text())
    process = subprocess.Popen([*COMMAND, "run", "-c", str(good), "--admin", "off", "--drain-delay", "0"])
    try:
        connect(ports[0], process).close()
        wait_for(lambda: " ready " in file.read_text())
        file.rename(file.with_suffix(".1"))
        process.send_signal(signal.SIGUSR1)
        wait_for(file.exists)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert " ended " in file.read_text() and " ready " in file.with_suffix(".1").read_text()
