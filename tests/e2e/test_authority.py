"""Who may do what: `carrier run` as a process of its own, and callers that are its own clusters, another user, a holder of a token."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.ports import free_port
from tests.soak.process import PATIENCE, Carrier, exchange, request
from tests.soak.process import forked as carrier

SECRET_CALL = request(
    "POST", "/api/v1/clusters", json.dumps({"cluster": {"name": "sh", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}}}).encode()
)


def led(port: int, *clusters: dict[str, Any], egress: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration whose one TCP port leads to the first of these clusters."""
    route = {"destination": clusters[0]["name"], "egress": list(egress)}
    spec = {"protocol": "TCP", "port": port, "address": "127.0.0.1"}
    return {"clusters": list(clusters), "listeners": [{"name": "in", "spec": spec, "rules": [{"action": {"route": route}}]}]}


def unix(address: str, mode: str = "stream") -> dict[str, Any]:
    return {"name": "sly", "spec": {"protocol": "UnixDomainSocket", "mode": mode}, "endpoints": [{"spec": {"address": address}}]}


def asked(port: int, data: bytes) -> bytes:
    """What comes back from a port, to its end."""
    found = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError), socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(data)
        while chunk := sock.recv(65536):
            found += chunk
    return found


# -- 1. no cluster leads to the API's own socket, whatever it calls it


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a folder a second time, where one may."""
    made: list[Path] = []

    def mount(folder: Path) -> Path:
        made.append(tmp_path / "mounted")
        made[-1].mkdir()
        if subprocess.run(["mount", "--bind", str(folder), str(made[-1])], capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        return made[-1]

    yield mount
    for one in made:
        subprocess.run(["umount", str(one)], capture_output=True)


NAMES: dict[str, Callable[[Path, Path], str]] = {
    "as it is": lambda sock, aside: str(sock),
    "two slashes": lambda sock, aside: "/" + str(sock),
    "dots": lambda sock, aside: f"{sock.parent}/./../{sock.parent.name}/{sock.name}",
    "another root": lambda sock, aside: f"/proc/self/root{sock}",
    "relative": lambda sock, aside: os.path.relpath(sock, Path(__file__).parents[2]),
    "link": lambda sock, aside: _linked(aside / "link", sock),
    "link to its folder": lambda sock, aside: _linked(aside / "folder", sock.parent) + "/" + sock.name,
    "hard link": lambda sock, aside: _hard(aside / "hard", sock),
}


def _linked(link: Path, to: Path) -> str:
    link.symlink_to(to)
    return str(link)


def _hard(link: Path, to: Path) -> str:
    os.link(to, link)
    return str(link)


@pytest.mark.parametrize("name", NAMES)
def test_no_cluster_is_made_that_leads_to_the_apis_socket_by_any_name(name: str, tmp_path: Path) -> None:
    with carrier({"listeners": []}) as one:
        status, said = one.call("POST", "/api/v1/clusters", {"cluster": unix(NAMES[name](Path(one.socket), tmp_path))})
        assert status == 400 and "REST API" in said["content"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_comes_to_lead_to_the_apis_socket_is_not_connected_to(name: str, tmp_path: Path) -> None:
    """The file is there only once the configuration is in force; a link stands for whatever name means something else later."""
    port, link = free_port(), tmp_path / "later"
    with carrier(led(port, unix(str(link)))) as one:
        link.symlink_to(os.path.abspath(NAMES[name](Path(one.socket), tmp_path)))
        assert asked(port, SECRET_CALL) == b""
        assert one.call("GET", "/api/v1/clusters/sh")[0] == 400


def test_a_folder_that_is_mounted_twice_leads_nowhere_either(tmp_path: Path, mounted: Callable[[Path], Path]) -> None:
    port, link = free_port(), tmp_path / "later"
    with carrier(led(port, unix(str(link)))) as one:
        twice = mounted(Path(one.socket).parent) / "api.sock"
        assert one.call("POST", "/api/v1/clusters", {"cluster": unix(str(twice)) | {"name": "other"}})[0] == 400
        link.symlink_to(twice)
        assert asked(port, SECRET_CALL) == b""
        assert one.call("GET", "/api/v1/clusters/sh")[0] == 400


def test_a_socket_file_that_was_moved_is_still_the_apis(tmp_path: Path) -> None:
    port, moved = free_port(), tmp_path / "moved"
    with carrier(led(port, unix(str(moved)))) as one:
        os.rename(one.socket, moved)
        assert asked(port, SECRET_CALL) == b""
        os.rename(moved, one.socket)
        assert one.call("GET", "/api/v1/clusters/sh")[0] == 400


def test_a_socket_of_another_listener_of_ours_is_led_to_as_ever(tmp_path: Path) -> None:
    port = free_port()
    conf = led(port, unix(str(tmp_path / "echo")), {"name": "echo", "spec": {"protocol": "Echo"}})
    spec = {"protocol": "UnixDomainSocket", "filename": str(tmp_path / "echo")}
    conf["listeners"].append({"name": "behind", "spec": spec, "rules": [{"action": {"route": {"destination": "echo"}}}]})
    with carrier(conf), socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"


def test_a_call_of_our_own_process_is_nobodys_even_if_it_reaches_the_socket(tmp_path: Path) -> None:
    """The second lock: the gate asks the kernel which process calls."""
    from carrier.admin.gate import Caller, Gate
    from carrier.errors import Error

    gate = Gate()
    own = Caller("unix", "unix", uid=os.geteuid(), pid=os.getpid())
    with pytest.raises(Error, match="from the proxy itself"):
        gate.admit(own, "GET", "/api/v1/config", {})
    assert gate.admit(own._replace(pid=os.getppid()), "GET", "/api/v1/config", {}) == "unix"


# -- 2. what is privileged takes a caller who has shown who it is

TOKEN = "correct-horse-battery"
NOBODY = 4711
ECHO = {"spec": {"protocol": "Echo"}}
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "a command": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}}}),
    "a command without words": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "STDIO-fork"}}}),
    "a unix socket": ("clusters", {"cluster": unix("/run/docker.sock")}),
    "a named pipe": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "PIPE"}, "endpoints": [{"spec": {"address": "/p"}}]}}),
    "frames": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "AF_PACKET"}, "endpoints": [{"spec": {"address": "lo"}}]}}),
    "our streams": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "Stdio"}}}),
    "a log": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "Logger", "log_file": "/tmp/l"}}}),
    "a CA": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "HTTP", "port": 1, "tls": {"ca": "/etc/shadow"}}}}),
    "a socket inside": (
        "clusters",
        {"cluster": {"name": "x", "spec": {"protocol": "JSONSocket", "transport": {"protocol": "UnixDomainSocket"}}}},
    ),
    "a listener's key": (
        "listeners",
        {
            "listener": {
                "name": "x",
                "spec": {"protocol": "HTTP", "port": 1, "tls": [{"certificate": "/etc/shadow", "key": "/etc/shadow"}]},
                "rules": [],
            }
        },
    ),
    "a listener's socket": (
        "listeners",
        {"listener": {"name": "x", "spec": {"protocol": "UnixDomainSocket", "filename": "/tmp/x"}, "rules": []}},
    ),
    "a listener's pipe": ("listeners", {"listener": {"name": "x", "spec": {"protocol": "PIPE", "filename": "/tmp/x"}, "rules": []}}),
    "a command in a route": (
        "routes",
        {"route": {"name": "x", "destination": {"name": "y", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}}}},
    ),
    "a route to a command": ("routes", {"route": {"name": "x", "destination": "sh"}}),
    "a route that falls back to a command": ("routes", {"route": {"name": "x", "destination": "echo", "fallback": "sh"}}),
    "a route through a log": ("routes", {"route": {"name": "x", "destination": "echo", "ingress": ["log"]}}),
    "a rule to a command": ("rules", {"rule": {"name": "x", "action": {"route": "to-sh"}}}),
    "a rule in a list": ("rulelists/plain/rules/0", {"rule": "sh-rule"}),
    "a listener of such a list": (
        "listeners",
        {"listener": {"name": "x", "spec": {"protocol": "TCP", "port": 0, "address": "127.0.0.1"}, "rules": "sh-rules"}},
    ),
    "a jump to such a list": ("rules", {"rule": {"name": "x", "action": {"apply": "sh-rules"}}}),
    "a mirror to a command": ("clusters", {"cluster": {"name": "x", "spec": {"protocol": "Mirror", "cluster": "sh"}}}),
    "an endpoint of a socket": ("clusters/sock/endpoints", {"endpoint": {"spec": {"address": "/run/other"}}}),
    "a whole configuration": ("config", {"clusters": [{"name": "x", "spec": {"protocol": "Logger"}}]}),
    "an access log": ("config", {"admin": {"access_log": "/tmp/a"}, "clusters": []}),
    "trust": ("config", {"admin": {"trust_loopback": "uid"}, "clusters": []}),
    "only asking": ("validate", {"clusters": [{"name": "x", "spec": {"protocol": "Logger", "log_file": "/root/x"}}]}),
    "a bridge's key": (
        "PUT bridges/x",
        {
            "listener": "web",
            "user": "u",
            "match": {"matchHeader": {"name": "x", "value": "u"}},
            "endpoint": "127.0.0.1:9",
            "tls": {"certificate": "/etc/shadow", "key": "/etc/shadow"},
        },
    ),
}


def furnished(port: int) -> dict[str, Any]:
    """A configuration whose operator has made what is privileged."""
    there = {"protocol": "HTTP", "port": port, "address": "127.0.0.1"}
    return {
        "clusters": [
            {"name": "sh", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}},
            {"name": "log", "spec": {"protocol": "Logger"}},
            {"name": "echo", **ECHO},
            unix("/nonexistent") | {"name": "sock"},
        ],
        "routes": [{"name": "to-sh", "destination": "sh"}],
        "rules": [{"name": "sh-rule", "action": {"route": "to-sh"}}],
        "rulelists": [{"name": "sh-rules", "rules": ["sh-rule"]}, {"name": "plain", "rules": []}],
        "listeners": [{"name": "web", "spec": there, "rules": [{"action": {"route": {"destination": "sock"}}}]}],
    }


def ask(port: int, what: str, body: Any, uid: int | None = None, **headers: str) -> tuple[int, Any]:
    """A call over TCP, from a socket of this user."""
    method, _, path = what.rpartition(" ")
    before = os.geteuid()
    if uid is not None:
        os.seteuid(uid)
    try:
        sock = socket.socket()
    finally:
        os.seteuid(before)
    with sock:
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        fields = {"host": f"127.0.0.1:{port}"} | headers
        return exchange(
            sock, request(method or "POST", f"/api/v1/{path}", json.dumps(body).encode() if body is not None else b"", **fields)
        )


@pytest.fixture(scope="module")
def shy() -> Iterator[tuple[int, Carrier]]:
    """A carrier that trusts nobody on loopback."""
    port, web = free_port(), free_port()
    with carrier(furnished(web), "--admin", f"127.0.0.1:{port}", "--trust-loopback", "none") as one:
        yield port, one


@pytest.mark.parametrize("what", ASKS)
def test_a_caller_who_has_not_shown_who_it_is_gets_nothing_privileged(what: str, shy: tuple[int, Carrier]) -> None:
    port, one = shy
    path, body = ASKS[what]
    before = one.call("GET", "/api/v1/config")[1]
    for query in ("", "?dryRun=true"):
        status, said = ask(port, path + query, body)
        assert status == 403, said
        assert "has not shown who it is" in said["content"]
    after = one.call("GET", "/api/v1/config")[1]
    assert after == before


def test_what_is_refused_tells_nothing_of_files(shy: tuple[int, Carrier], tmp_path: Path) -> None:
    """Not whether they are there, not what they are, and nothing is made."""
    (tmp_path / "there").write_text("x")
    said = set()
    for name in ("there", "gone", "gone/deeper"):
        body = {"cluster": {"name": "x", "spec": {"protocol": "HTTP", "port": 1, "tls": {"ca": str(tmp_path / name)}}}}
        said.add(ask(shy[0], "clusters", body)[1]["content"])
        body = {"clusters": [{"name": "x", "spec": {"protocol": "Logger", "log_file": str(tmp_path / name)}}]}
        said.add(ask(shy[0], "validate", body)[1]["content"])
    assert len(said) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["there"]


NETWORK = {
    "a cluster": ("clusters", {"cluster": {"name": "n1", "spec": {"protocol": "HTTP", "port": 1, "tls": True}}}),
    "a listener": (
        "listeners",
        {"listener": {"name": "n2", "spec": {"protocol": "TCP", "port": 0, "address": "127.0.0.1"}, "rules": "plain"}},
    ),
    "a listener with a certificate of its own": (
        "listeners",
        {
            "listener": {
                "name": "n3",
                "spec": {"protocol": "HTTP", "port": 0, "address": "127.0.0.1", "tls": {"self_signed": True}},
                "rules": [],
            }
        },
    ),
    "a bridge beside a socket that the operator made": (
        "PUT bridges/n4",
        {"listener": "web", "user": "u", "match": {"matchHeader": {"name": "x", "value": "u"}}, "endpoint": "127.0.0.1:9"},
    ),
    "a rule that takes nothing": ("rulelists/sh-rules/rules/0", {"rule": {"name": "n5", "action": {"route": {"destination": "echo"}}}}),
    "a cluster deleted": ("DELETE clusters/n1", None),
}


def test_network_protocols_and_bridges_are_everybodys(shy: tuple[int, Carrier]) -> None:
    for what, (path, body) in NETWORK.items():
        status, said = ask(shy[0], path, body)
        assert status in (200, 201), (what, said)


def test_the_unix_socket_gets_all(shy: tuple[int, Carrier]) -> None:
    body = {"cluster": {"name": "u1", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}}}
    assert shy[1].call("POST", "/api/v1/clusters", body)[0] == 200


def test_a_token_has_the_right_if_its_line_says_so(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "tokens"
    file.write_text(f"ci {TOKEN}\nboss {TOKEN}-of-the-boss privileged\n")
    file.chmod(0o600)
    path, body = ASKS["a command"]
    with carrier({"listeners": []}, "--admin", f"127.0.0.1:{port}", "--admin-tokens", str(file), "--trust-loopback", "none") as one:
        status, said = ask(port, path, body, authorization=f"Bearer {TOKEN}")
        assert status == 403 and "the token of ci has not that right" in said["content"]
        assert ask(port, path, body, authorization=f"Bearer {TOKEN}-of-the-boss")[0] == 200
        assert one.call("GET", "/api/v1/status")[1]["trusted"]["tokens"] == ["boss"]


root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")


def test_loopback_callers_of_our_own_user_are_known_by_the_kernel(tmp_path: Path) -> None:
    """An l7mp user's curl calls go on working unchanged."""
    port = free_port()
    with carrier({"listeners": []}, "--admin", f"127.0.0.1:{port}"):
        assert ask(port, *ASKS["a command"])[0] == 200
        assert ask(port, *ASKS["a log"], x_forwarded_for="10.0.0.1")[0] == 403


@root
def test_loopback_callers_of_another_user_are_not(tmp_path: Path) -> None:
    port = free_port()
    with carrier({"listeners": []}, "--admin", f"127.0.0.1:{port}") as one:
        status, said = ask(port, *ASKS["a command"], uid=NOBODY)
        assert status == 403 and "runs commands" in said["content"]
        assert ask(port, *NETWORK["a cluster"], uid=NOBODY)[0] == 200
        assert one.call("GET", "/api/v1/clusters/x")[0] == 400


@root
def test_a_caller_that_has_closed_its_socket_is_not_taken_for_root(tmp_path: Path) -> None:
    """The kernel lists a socket that nobody holds any more as root's."""
    port = free_port()
    with carrier({"listeners": []}, "--admin", f"127.0.0.1:{port}") as one:
        for _ in range(20):
            os.seteuid(NOBODY)
            sock = socket.socket()
            os.seteuid(0)
            sock.connect(("127.0.0.1", port))
            sock.sendall(SECRET_CALL)
            sock.close()
        assert one.call("GET", "/api/v1/clusters/sh")[0] == 400


def test_the_file_may_say_that_loopback_shows_nothing(tmp_path: Path) -> None:
    port = free_port()
    with carrier({"admin": {"trust_loopback": "none"}, "listeners": []}, "--admin", f"127.0.0.1:{port}") as one:
        assert ask(port, *ASKS["a command"])[0] == 403
        assert one.call("GET", "/api/v1/status")[1]["trusted"]["loopback"] == "nobody without a token"


def test_status_says_which_objects_are_privileged_and_why(shy: tuple[int, Carrier]) -> None:
    shown = {(one["kind"], one["name"]): one["why"] for one in shy[1].call("GET", "/api/v1/status")[1]["privileged"]}
    assert shown["cluster", "sh"] == "STDIO-fork runs commands"
    assert shown["route", "to-sh"] == 'leads to cluster "sh": STDIO-fork runs commands'
    assert ("rulelist", "sh-rules") in shown and ("listener", "web") in shown
    assert ("cluster", "echo") not in shown


# -- 3. files of tokens


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_file_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    file, conf = tmp_path / "tokens", tmp_path / "c.json"
    file.write_text(f"ci {TOKEN}\n")
    file.chmod(mode)
    conf.write_text('{"listeners": []}')
    command = [sys.executable, "-m", "carrier", "run", "-c", str(conf), "--admin-socket", "off", "--admin-tokens", str(file)]
    found = forked.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 2 and "others may read it" in found.stderr and TOKEN not in found.stderr


# -- 3. where bridges may lead


def bridged(port: int, endpoint: str) -> dict[str, Any]:
    return {"port": port, "user": "u", "match": {"matchHeader": {"name": "x-user", "value": "u"}}, "endpoint": endpoint}


def shadowed(port: int, **more: Any) -> dict[str, Any]:
    spec = {"protocol": "HTTP", "port": port, "address": "127.0.0.1"}
    answer = {"spec": {"protocol": "Answer", "body": "shadow"}}
    return {"listeners": [{"name": "web", "spec": spec, "rules": [{"action": {"route": {"destination": answer}}}]}], **more}


def test_no_bridge_leads_to_a_metadata_service_by_its_address(tmp_path: Path) -> None:
    port = free_port()
    with carrier(shadowed(port)) as one:
        for endpoint in ("169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[fe80::1]:80"):
            status, said = one.call("PUT", "/api/v1/bridges/x", bridged(port, endpoint))
            assert status == 400 and "may not lead" in json.dumps(said), said
        assert one.call("PUT", "/api/v1/bridges/x", bridged(port, "127.0.0.1:9"))[0] in (200, 201)


def test_a_name_of_a_bridge_that_leads_out_of_its_networks_is_not_connected_to(tmp_path: Path) -> None:
    """The name is known to be bad only when it is looked up."""
    port, laptop = free_port(), socket.create_server(("127.0.0.1", 0))
    laptop.settimeout(0.5)
    with laptop, carrier(shadowed(port, bridges={"networks": ["10.0.0.0/8"]})) as one:
        status, said = one.call("PUT", "/api/v1/bridges/y", bridged(port, "127.0.0.1:9"))
        assert status == 400 and "10.0.0.0/8" in json.dumps(said)
        where = f"localhost:{laptop.getsockname()[1]}"
        assert one.call("PUT", "/api/v1/bridges/x", bridged(port, where))[0] in (200, 201)
        found = asked(port, b"GET / HTTP/1.1\r\nhost: a\r\nx-user: u\r\nconnection: close\r\n\r\n")
        assert found.endswith(b"shadow") and b"x-carrier-fallback: forbidden" in found.lower()
        with pytest.raises(TimeoutError):
            laptop.accept()


# -- 9. asking makes nothing


def test_asking_makes_no_file(tmp_path: Path) -> None:
    """A dry run, `validate` and `carrier check` of everything that would make one."""
    made = tmp_path / "made"
    made.mkdir()
    spec = {"protocol": "UnixDomainSocket", "filename": str(made / "socket")}
    conf = {
        "clusters": [{"name": "log", "spec": {"protocol": "Logger", "log_file": str(made / "log")}}],
        "listeners": [
            {"name": "unix", "spec": spec, "rules": [{"action": {"route": {"destination": "log"}}}]},
            {"name": "pipe", "spec": {"protocol": "PIPE", "filename": str(made / "pipe"), "reply": str(made / "reply")}, "rules": []},
        ],
    }
    with carrier({"listeners": []}) as one:
        status, said = one.call("POST", "/api/v1/validate", conf)
        assert status == 200 and said["valid"], said
        assert one.call("POST", "/api/v1/config?dryRun=true", conf)[0] == 200
        for kind in ("cluster", "listener"):
            for obj in conf[f"{kind}s"]:
                assert (
                    one.call("POST", f"/api/v1/{kind}s?dryRun=true", {kind: obj | ({} if kind == "cluster" else {"rules": []})})[0] == 200
                )
                assert (
                    one.call(
                        "PUT", f"/api/v1/{kind}s/{obj['name']}?dryRun=true", {kind: obj | ({} if kind == "cluster" else {"rules": []})}
                    )[0]
                    == 200
                )
    file = tmp_path / "c.json"
    file.write_text(json.dumps(conf))
    found = forked.run([sys.executable, "-m", "carrier", "check", str(file)], capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 0, found
    assert list(made.iterdir()) == []
