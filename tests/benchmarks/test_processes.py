import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from benchmarks.measure import LOAD_CORE, process_tree
from benchmarks.processes import Children, StartError, free_ports, start_backend, wait_for_port, wait_until

SLEEP = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"]


def gone(pid):
    return not process_tree(pid)


def test_a_block_ends_its_processes_and_removes_its_directory():
    with Children() as children:
        child = children.start("sleeper", SLEEP, LOAD_CORE)
        directory = children.directory
        assert child.alive() and directory.is_dir()
    assert gone(child.pid) and not directory.exists()


def test_a_block_that_ends_in_ctrl_c_ends_its_processes_too():
    with pytest.raises(KeyboardInterrupt), Children() as children:
        child = children.start("sleeper", SLEEP, LOAD_CORE)
        raise KeyboardInterrupt
    assert gone(child.pid)


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr("benchmarks.processes.STOP_SECONDS", 0.2)
    with Children() as children:
        child = children.start("stubborn", STUBBORN, LOAD_CORE, pipe=True)
        child.process.stdout.readline()
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_stays_on_its_core():
    with Children() as children:
        child = children.start("sleeper", SLEEP, LOAD_CORE, pipe=True)
        child.process.stdout.readline()
        assert os.sched_getaffinity(child.pid) == {LOAD_CORE}


def test_a_child_dies_with_a_harness_that_is_killed():
    program = (
        "from benchmarks.processes import Children\n"
        "with Children() as children:\n"
        f"    print(children.start('x', {SLEEP!r}, {LOAD_CORE}).pid, children.directory, flush=True)\n"
        "    input()"
    )
    harness = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid, directory = harness.stdout.readline().split()
    harness.kill()
    harness.communicate()
    limit = time.monotonic() + 5
    while not gone(int(pid)) and time.monotonic() < limit:
        time.sleep(0.01)
    assert gone(int(pid))
    subprocess.run(["rm", "-r", directory], check=True)  # what SIGKILL leaves behind


def test_what_a_child_printed_is_in_the_error_when_it_does_not_come_up():
    with Children() as children:
        child = children.start("broken", [sys.executable, "-c", "raise SystemExit('no such luck')"], LOAD_CORE)
        with pytest.raises(StartError, match="broken ended with code 1: no such luck"):
            wait_for_port(free_ports(1)[0], child)


def test_a_child_that_never_listens_is_given_up():
    with Children() as children:
        child = children.start("deaf", SLEEP, LOAD_CORE)
        with pytest.raises(StartError, match="deaf was not ready"):
            wait_until(lambda: False, child, seconds=0.05)


def test_free_ports_are_different_and_can_be_bound():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", ports[0]))


def test_the_backend_names_the_ports_of_all_its_servers():
    with Children() as children:
        ports = start_backend(children, ["A", "laptop-1"])
    assert set(ports) == {"A", "laptop-1", "tcp", "udp", "sink", "bulk"}
