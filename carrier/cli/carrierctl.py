#!/usr/bin/env -S python3 -ISB
"""carrierctl: calls of the REST API over the proxy's unix socket, for those who run it in a pod.

    carrierctl [-s SOCKET] [-i] METHOD PATH [BODY | - | -BYTES]      carrierctl PUT bridges/john '{"port": 8080, ...}'
    carrierctl [-s SOCKET] -l                                        many calls, one after the other

PATH is relative to /api/v1/; "-" reads the body from standard input, "-4096" so many bytes of it: an input that nobody can end. The
answer's body goes to standard output; with -i its status and the revision in force come before it, on a line of their own. Exit status: 0
for 2xx, 1 for another answer, 2 for bad usage, 3 when nobody answers. It imports nothing but what Python has built in: with `python3 -ISB`
it starts in about ten milliseconds.

With -l each call is a line `METHOD PATH BYTES` on standard input and so many bytes of body after it, and each answer a line `STATUS
REVISION BYTES` and so many bytes; status 0: nobody answers, and the bytes say why. It ends with its input, or after 40 s without a call.
A container that has just begun may have this before its proxy: until one has answered, each call waits for it, for a second.
"""

import sys
from _signal import alarm  # type: ignore[import-not-found]
from _socket import AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket
from posix import environ, geteuid, read, write
from time import monotonic, sleep

FOLDER = b"/tmp"
TIMEOUT = 30.0
"""Seconds to wait for the proxy."""
IDLE = 40
"""Seconds after which `-l` ends when it is not called."""
STARTING = 1.0
"""Seconds for which a call of `-l` waits for a proxy that is just starting."""
MOST = 64 * 1024 * 1024
LINE = 8192
"""Bytes of a line that asks for a call, at most."""
USAGE = "usage: carrierctl [-s SOCKET] [-i] METHOD PATH [BODY | - | -BYTES]\n       carrierctl [-s SOCKET] -l\n"


def default_socket() -> str:
    """Where the daemon of the image has its socket."""
    return (environ.get(b"CARRIER_SOCKET") or (environ.get(b"CARRIER_RUN_DIR") or FOLDER) + b"/carrier2-api.sock").decode()


def call(path: str, method: str, target: str, body: bytes) -> "tuple[int, str, bytes]":
    """(status, revision, body) of the answer. Raises OSError, ValueError when it is none."""
    if not is_request(method, target):
        raise ValueError(f"{method} {target} is no request")
    target = target if target.startswith("/") else f"/api/v1/{target}"
    kind = "content-type: application/json\r\n" if body else ""
    head = f"{method.upper()} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{kind}content-length: {len(body)}\r\n\r\n"
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.settimeout(TIMEOUT)
        sock.connect(path)
        user = answers(sock)
        if user not in (geteuid(), 0) and (geteuid() or path == default_socket()):
            raise ValueError(f"user {user} answers there, neither ours nor root: nothing was sent")
        sock.sendall(head.encode() + body)
        answer = b""
        while len(answer) < MOST and (data := sock.recv(65536)):
            answer += data
    finally:
        sock.close()
    return parse(answer)


def answers(sock: socket) -> int:
    """The user of the process that listens, as the kernel knows it (unix(7)): anybody may put a socket into /tmp."""
    return int.from_bytes(sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], sys.byteorder)


def is_request(method: str, target: str) -> bool:
    """Can a request be made of these? Names in the target are percent-encoded (RFC 3986)."""
    return method.isascii() and method.isalpha() and target.isascii() and target.isprintable() and " " not in target


def parse(answer: bytes) -> "tuple[int, str, bytes]":
    """An answer that has come to its end, taken apart. Raises ValueError."""
    head, gap, rest = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if not gap or len(words) < 2 or not words[1].isdigit():
        raise ValueError("what answers speaks no HTTP")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        rest = _unchunked(rest)
    elif len(rest) < int(fields.get(b"content-length", b"0")):
        raise ValueError("the answer was cut")
    return int(words[1]), fields.get(b"carrier-revision", b"-").decode("latin-1"), rest


def _unchunked(data: bytes) -> bytes:
    content = b""
    while True:
        size, gap, data = data.partition(b"\r\n")
        count = int(size or b"-", 16)
        if not gap or len(data) < count:
            raise ValueError("the answer was cut")
        if not count:
            return content
        content, data = content + data[:count], data[count + 2 :]


def main(arguments: "list[str]") -> int:
    """Run with these arguments; returns the exit status."""
    if arguments in (["-h"], ["--help"]):
        _say(1, USAGE.encode())
        return 0
    path, show, many = "", False, False
    while arguments and arguments[0] in ("-s", "-i", "-l"):
        option = arguments.pop(0)
        if option == "-i":
            show = True
        elif option == "-l":
            many = True
        elif arguments:
            path = arguments.pop(0)
    if many and not arguments:
        return calls(path or default_socket())
    if many or not 2 <= len(arguments) <= 3:
        _say(2, USAGE.encode())
        return 2
    method, target, body = [*arguments, ""][:3]
    if not is_request(method, target):
        _say(2, f"carrierctl: {method} {target} is no request: spaces and other letters in a name are percent-encoded\n".encode())
        return 2
    try:
        status, revision, answer = call(path or default_socket(), method, target, _input(body) if _is_input(body) else body.encode())
    except (OSError, ValueError) as exc:
        _say(2, f"carrierctl: {path or default_socket()}: {getattr(exc, 'strerror', None) or exc}\n".encode())
        return 3
    if show:
        _say(1, f"{status} {revision}\n".encode())
    _say(1, answer if not answer or answer.endswith(b"\n") else answer + b"\n")
    return 0 if 200 <= status < 300 else 1


def calls(path: str) -> int:
    """Calls from standard input, until it ends; the exit status."""
    patience = STARTING
    while True:
        alarm(IDLE)  # it ends the process: nobody waits for an answer
        line = b""
        while not line.endswith(b"\n"):
            byte = read(0, 1)
            if not byte or len(line) > LINE:
                return 2 if line else 0
            line += byte
        alarm(0)
        words = line.decode("utf-8", "replace").split()
        if len(words) != 3 or not (words[2].isascii() and words[2].isdigit()):
            _say(2, b"carrierctl: expected METHOD PATH BYTES\n")
            return 2
        try:
            body = _input(f"-{words[2]}")
            status, revision, answer = _patient(path, words[0], words[1], body, patience)
            patience = 0.0
        except (OSError, ValueError) as exc:
            status, revision, answer = 0, "-", str(getattr(exc, "strerror", None) or exc).encode()
        _say(1, f"{status} {revision} {len(answer)}\n".encode() + answer)


def _patient(path: str, method: str, target: str, body: bytes, patience: float) -> "tuple[int, str, bytes]":
    """`call`, again for so many seconds while nobody listens: nothing was sent then."""
    deadline = monotonic() + patience
    while True:
        try:
            return call(path, method, target, body)
        except (FileNotFoundError, ConnectionRefusedError):
            if monotonic() >= deadline:
                raise
        sleep(0.01)


def _is_input(body: str) -> bool:
    return body[:1] == "-" and (body == "-" or (body[1:].isascii() and body[1:].isdigit()))


def _input(body: str) -> bytes:
    """What standard input says. Raises ValueError when it ends before it has said all of it."""
    data = b""
    wanted = int(body[1:]) if body != "-" else MOST
    while len(data) < wanted and (piece := read(0, min(65536, wanted - len(data)))):
        data += piece
    if body != "-" and len(data) < wanted:
        raise ValueError(f"the body ended after {len(data)} of {wanted} bytes")
    return data


def _say(descriptor: int, data: bytes) -> None:
    while data:
        data = data[write(descriptor, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
