"""The proxies that we compare: one file each, all with the same job, made from one `Job`.

A peer says whether it can do a job here (`missing`), writes its own configuration for it (`config`, a pure function of job and directory,
so that its tests need no proxy) and gives the command that runs it. The harness starts, checks, measures and ends it.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trustme

H2 = ("h2", "h2-h2", "grpc")
# What a peer may be asked to carry: tls is HTTP over TLS from clients, websocket is HTTP with an Upgrade, large is HTTP with large bodies,
# bulk TCP with large streams, rules is HTTP with many rules; h2 is HTTP/2 from clients and HTTP/1.1 to upstreams, h2-h2 HTTP/2 to both,
# grpc the same with calls.
PROTOCOLS = ("http", "tls", "large", "rules", "websocket", *H2, "tcp", "bulk", "udp")


@dataclass(frozen=True)
class Job:
    """What every peer is asked to do: listen on `port` of 127.0.0.1 and carry `protocol` (a key of `PROTOCOLS`) to loopback ports.

    HTTP: exact values of header `header` lead to the named backends, the path prefix to another, the rest to the default; keep-alive on
    both sides, WebSocket upgrades pass. TCP and UDP know only the default.
    """

    protocol: str
    port: int
    backends: Mapping[str, int]  # name -> loopback port
    default: str = "D"
    header: str = "x-user"
    users: Mapping[str, str] = field(default_factory=dict)  # header value -> backend name
    prefix: str = "/svc/"
    prefix_to: str = "A"

    @property
    def parses_http(self) -> bool:
        """Whether requests are routed one by one; otherwise whole connections or datagram flows are relayed."""
        return self.protocol in ("http", "tls", "large", "rules", "websocket", *H2)

    @property
    def h2_upstream(self) -> bool:
        """Whether HTTP/2 is spoken to the backends."""
        return self.protocol in H2[1:]


@dataclass(frozen=True)
class Command:
    """How to run a peer: arguments, and what to add to the environment."""

    arguments: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Peer(Protocol):
    """One proxy program."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        ...

    @property
    def routes(self) -> bool:
        """Whether it looks at the requests; the routing of a relay that parses nothing is not checked."""
        ...

    @property
    def protocols(self) -> Sequence[str]:
        """What it carries: some of `PROTOCOLS`."""
        ...

    @property
    def version_command(self) -> Sequence[str]:
        """What prints its version."""
        ...

    def missing(self, protocol: str) -> str | None:
        """Why this peer cannot do `protocol` (one of its `protocols`) here, or None when it can."""
        ...

    def prepare(self, job: Job, directory: Path) -> Command:
        """Write what the program reads into `directory` and say how to start it."""
        ...


def usual_job(protocol: str, port: int, backends: Mapping[str, int]) -> Job:
    """The job that all are compared with: two header rules, a path prefix, a default."""
    return Job(protocol, port, backends, users={"alice": "A", "bob": "B"})


def certificate(directory: Path) -> Path:
    """A file in `directory` with an ECDSA key (P-256) and a certificate that nobody has to trust."""
    file = directory / "server.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
    file.chmod(0o644)
    return file


def version(peer: Peer) -> str:
    """The first line that the program says about itself."""
    done = subprocess.run(peer.version_command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]
