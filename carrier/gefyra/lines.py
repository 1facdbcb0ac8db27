"""Calls of `carrierctl` in containers, through execs that are kept: an exec costs a tenth of a second, a call in one milliseconds.

Each exec of `carrierctl -l` takes one call at a time and is kept for the next of its container, for IDLE seconds. One whose container has
ended meanwhile is noticed by the next call, which makes a new one. Nothing here is asynchronous: callers are threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

TIMEOUT = 10
"""Seconds for one call."""
IDLE = 20.0
"""Seconds for which an exec is kept without a call; `carrierctl -l` itself ends after twice as many."""


class Line(Protocol):
    """A process with input and output, somewhere else."""

    def write(self, data: bytes) -> None:
        """Raises what the package raises."""

    def read(self, patience: float) -> bytes:
        """Some of its output; nothing: it has ended, or has said nothing for so many seconds."""

    @property
    def reason(self) -> str:
        """Why it ended, as far as it said so; "": it runs."""

    def close(self) -> None:
        """End it."""


class Lines:
    """Execs of `carrierctl -l`, each for one call at a time, and kept for the next. open: makes one. Threads share it."""

    def __init__(self, open: Callable[[str, str, str], Line]) -> None:
        self.open = open
        self.lock = threading.Lock()
        self.idle: list[tuple[tuple[str, str, str], Line, float]] = []
        """(namespace, pod, container), its exec, when it was last used; the last used last."""

    def call(self, where: tuple[str, str, str], method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        """(status, revision, body) of the answer. Raises OSError, and what the package raises.

        An exec that was kept may have ended with its container: then a new one is made, once.
        """
        line = self._take(where)
        if line is not None:
            try:
                return self._call(where, line, method, path, body)
            except Exception as exc:
                if isinstance(exc, TimeoutError):
                    raise
        return self._call(where, self.open(*where), method, path, body)

    def _take(self, where: tuple[str, str, str]) -> Line | None:
        """One that is not in use; those that were not for too long are ended."""
        now = time.monotonic()
        with self.lock:
            old = [line for _, line, used in self.idle if now - used > IDLE]
            self.idle = [one for one in self.idle if now - one[2] <= IDLE]
            found = next((one for one in reversed(self.idle) if one[0] == where), None)
            if found is not None:
                self.idle.remove(found)
        for line in old:
            _close(line)
        return found[1] if found is not None else None

    def _call(self, where: tuple[str, str, str], line: Line, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        try:
            line.write(f"{method} {path} {len(body)}\n".encode())
            for i in range(0, len(body), 65536):
                line.write(body[i : i + 65536])
            found = _answer(line)
        except BaseException:
            _close(line)
            raise
        with self.lock:
            self.idle.append((where, line, time.monotonic()))
        return found


def _answer(line: Line) -> tuple[int, str, bytes]:
    """One answer of `carrierctl -l`. Raises TimeoutError after TIMEOUT seconds, OSError when it ends before, with the reason."""
    data, words, wanted = b"", [], -1
    deadline = time.monotonic() + TIMEOUT
    while wanted < 0 or len(data) < wanted:
        if not (piece := line.read(max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer within {TIMEOUT} s")
            raise OSError(line.reason or data.decode("utf-8", "replace").strip() or "carrierctl said nothing")
        data += piece
        if wanted < 0 and b"\n" in data:
            first, _, data = data.partition(b"\n")
            words = first.decode("utf-8", "replace").split()
            if len(words) != 3 or not (words[0].isdigit() and words[2].isdigit()):
                raise OSError(first[:200].decode("utf-8", "replace"))
            wanted = int(words[2])
    return int(words[0]), words[1], data


def _close(line: Line) -> None:
    try:
        line.close()
    except Exception:
        return  # it is gone already


class Exec:
    """`carrierctl -l` in a container, by the package. Raises what the package raises."""

    def __init__(self, namespace: str, pod: str, container: str) -> None:
        from kubernetes import client, stream

        self.peer = stream.stream(
            client.CoreV1Api().connect_get_namespaced_pod_exec,
            pod,
            namespace,
            container=container,
            command=["carrierctl", "-l"],
            stderr=True,
            stdin=True,
            stdout=True,
            tty=False,
            binary=True,
            _preload_content=False,
        )
        self.reason = ""

    def write(self, data: bytes) -> None:
        """See Line."""
        self.peer.write_stdin(data)

    def read(self, patience: float) -> bytes:
        """See Line."""
        deadline = time.monotonic() + patience
        while not (found := bytes(self.peer.read_channel(1))):
            ended = self.peer.peek_channel(3)
            if ended or not self.peer.is_open():
                self.reason = (bytes(self.peer.read_channel(2)) or bytes(ended or b"")).decode("utf-8", "replace").strip()
                return b""
            left = deadline - time.monotonic()
            if left <= 0:
                return b""
            waits = getattr(self.peer.sock.sock, "pending", int)() == 0
            self.peer.update(timeout=left if waits else 0)  # what TLS has read already wakes nobody
        return found

    def close(self) -> None:
        """See Line. Nobody waits for the other side's farewell."""
        self.peer.close(timeout=0)
