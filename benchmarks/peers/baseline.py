"""Yardsticks that are no proxies: `ceiling`, a uvloop relay that parses nothing; `bare-tls`, Python's TLS that answers without asking."""

import sys
from pathlib import Path

from benchmarks.peers import Command, Job, certificate


class Ceiling:
    """benchmarks/ceiling.py. What it relays it does not read, so it leads everything to the default."""

    name = "ceiling"
    routes = False
    protocols = ("http", "large", "websocket", "tcp", "bulk", "udp")
    version_command = (sys.executable, "--version")

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        return None

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        kind = "udp" if job.protocol == "udp" else "tcp"
        return Command([sys.executable, "-m", "benchmarks.ceiling", kind, str(job.port), str(job.backends[job.default])])


class BareTls:
    """benchmarks/ceiling.py: what TLS of Python's costs at least, on uvloop, where nothing is behind it."""

    name = "bare-tls"
    routes = False
    protocols = ("tls",)
    version_command = (sys.executable, "--version")

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        return None

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        pem = str(certificate(directory))
        return Command([sys.executable, "-m", "benchmarks.ceiling", "tls", str(job.port), str(job.backends[job.default]), pem])
