"""Who may do what: `carrier run` as a process of its own, and callers that are its own clusters, another user, a holder of a token."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.soak.process import PATIENCE, carrier, free_port, request

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
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(data)
        found = b""
        try:
            while chunk := sock.recv(65536):
                found += chunk
        except ConnectionResetError:
            pass
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
