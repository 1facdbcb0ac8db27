"""SCTP one-to-one sockets: made, and carried as a hop."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from carrier.hops.bytesocket import LINGER_RST, ORDERLY
from carrier.hops.packetsocket import BUFFER, LONGEST, PacketSocket

if TYPE_CHECKING:
    from carrier.errors import Error

SCTP_NODELAY = 3
"""linux/sctp.h; without it small messages wait for each other (RFC 6458 section 8.1.5)."""


class SctpSocket(PacketSocket):
    """An association. peer, local: (host, port) of a listener's."""

    __slots__ = ("local", "peer")
    peer: tuple[str, int]
    local: tuple[str, int]

    def receive(self) -> bytes | None:
        """The next message; a long one comes in parts, the last of them marked (RFC 6458 sections 5.3.4, 8.1.20). Raises OSError."""
        size, _, flags, _ = self.sock.recvmsg_into([BUFFER])
        message = self.parts + BUFFER[:size]
        if len(message) > LONGEST:
            raise OSError(errno.EMSGSIZE, f"a message of more than {LONGEST} bytes")
        if size and not flags & socket.MSG_EOR:
            self.parts = message
            return None
        self.parts = b""
        return message

    def reset(self, error: Error) -> None:
        """Give up: the peer sees an ABORT instead of a SHUTDOWN (RFC 9260 section 9.1), but for an orderly reason."""
        if not self.closed:
            if error.kind not in ORDERLY:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
            self.close(error)


def sctp_socket(family: int) -> socket.socket:
    """A non-blocking one-to-one socket. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_SCTP)
    sock.setsockopt(socket.IPPROTO_SCTP, SCTP_NODELAY, 1)
    return sock


def missing() -> str:
    """Why there is no SCTP here, or nothing."""
    try:
        sctp_socket(socket.AF_INET).close()
    except OSError as exc:
        return f"SCTP needs a kernel that has it: {exc.strerror}"
    return ""
