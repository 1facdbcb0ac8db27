"""The SCTP tests on a kernel that has SCTP, wherever this machine's has not: Debian's user-mode Linux, booted for a minute.

`linux` (package user-mode-linux) is a kernel that is a program. It sees this machine's files through hostfs, read only, loads its sctp
module, and runs pytest; its only network is its own loopback. `python -m tests.soak.sctp_uml [PYTEST ARGUMENT...]` exits with pytest's
status, or 0 and the reason where there is no such kernel. This file is both: the side that boots, and the first process (init).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = Path("/usr/lib/uml/modules")
TESTS = ("tests/listeners/test_sctp.py", "tests/clusters/test_sctp.py", "tests/e2e/test_matrix.py")
SELECT = "sctp or SCTP"
LONGEST = 300.0
"""Seconds after which the kernel is stopped."""
STARTS = "sctp_uml: the kernel has started"
BEGINS = "sctp_uml: pytest begins"
SAID = "sctp_uml: pytest ended with "
RTO = "20"
"""Milliseconds of a retransmission timeout: a receiver that does not read has its sender wait for one, 1 s and more by default."""
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SYS_FINIT_MODULE = 313
"""x86_64; the package is for that one (and for i386)."""
POWER_OFF = 0x4321FEDC


# ---------------------------------------------------------------------- the machine that boots it


def lacks() -> str:
    """Why it cannot be booted here, or nothing."""
    if shutil.which("linux") is None or not list(MODULES.glob("*/kernel/net/sctp/sctp.ko")):
        return "there is no user-mode Linux with SCTP here (Debian: apt-get install user-mode-linux)"
    return ""


class Unbootable(Exception):
    """This machine lets no such kernel start: it needs memory that may be executed, and to trace its own processes."""


def boot(arguments: list[str]) -> int:
    """Boot, run pytest with these arguments, print what it says; its exit status. Raises Unbootable; RuntimeError: it started, no more."""
    script = str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory(prefix="uml-") as folder:
        command = ["linux", "mem=512M", "rootfstype=hostfs", "rootflags=/", "root=/dev/root", "ro", "quiet", f"uml_dir={folder}/"]
        command += ["con=null", "con0=null,fd:1", f"init={sys.executable}", "--", script, "init", json.dumps(arguments).encode().hex()]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert process.stdout is not None
        status = None
        before: list[str] | None = []
        timer = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.alarm(int(LONGEST))
        try:
            for line in process.stdout:
                text = line.decode(errors="replace").rstrip()
                if text == BEGINS:
                    before = None
                elif before is not None:
                    before.append(text)  # what a kernel says when it starts
                elif text.startswith(SAID):
                    status = int(text.removeprefix(SAID))
                elif status is None:
                    print(text, flush=True)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, timer)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status is None:
        started = before is None or STARTS in before
        text = "\n".join(["the kernel ended before pytest did", *(before or ())])
        raise RuntimeError(text) if started else Unbootable(text)
    return status


# ---------------------------------------------------------------------- the first process of the kernel that is booted


def init(arguments: list[str]) -> None:
    """Make a machine of it, run pytest, power off."""
    print(STARTS, flush=True)
    try:
        mount("proc", "/proc")
        mount("sysfs", "/sys")
        os.makedirs("/dev/shm", exist_ok=True)  # the kernel has mounted a devtmpfs
        mount("tmpfs", "/dev/shm")
        for module in ("hmac", "sctp"):  # the first one for the cookies of associations
            load(module)
        for name in ("rto_min", "rto_initial"):
            Path("/proc/sys/net/sctp", name).write_text(RTO)
        loopback_up()
        env = {"PATH": os.defpath, "HOME": "/dev/shm", "TMPDIR": "/dev/shm", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-q", *arguments]
        print(BEGINS, flush=True)
        status = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        print(f"{SAID}{status}", flush=True)
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}", flush=True)
    finally:
        time.sleep(0.05)  # the console is written by an interrupt
        ctypes.CDLL(None).reboot(POWER_OFF)


def mount(kind: str, where: str) -> None:
    """mount(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {where}")


def load(name: str) -> None:
    """Load a module and what it needs first, as modules.dep says. Raises OSError, StopIteration."""
    folder = MODULES / os.uname().release
    lines = (folder / "modules.dep").read_text().splitlines()
    line = next(line for line in lines if re.match(rf"\S*/{name}\.ko:", line))
    libc = ctypes.CDLL(None, use_errno=True)
    for path in reversed(line.replace(":", "").split()):
        with open(folder / path, "rb") as file:
            if libc.syscall(SYS_FINIT_MODULE, file.fileno(), b"", 0) != 0:
                raise OSError(ctypes.get_errno(), f"cannot load {path}")


def loopback_up() -> None:
    """ip link set lo up. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("16sh", asked)[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def main() -> int:
    if sys.argv[1:2] == ["init"]:
        init(json.loads(bytes.fromhex(sys.argv[2])))  # a kernel's command line knows few quotes; what it adds itself comes behind
    reason = lacks()
    if reason:
        print(f"skipped: {reason}")
        return 0
    began = time.monotonic()
    try:
        status = boot(sys.argv[1:] or [*TESTS, "-k", SELECT])
    except Unbootable as exc:
        print(f"skipped: {exc}")
        return 0
    print(f"on user-mode Linux, {time.monotonic() - began:.0f} s with its start")
    return status


if __name__ == "__main__":
    sys.exit(main())
