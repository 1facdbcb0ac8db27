"""haproxy: one thread, idle upstream connections reused by all. It carries no UDP."""

import shutil
from pathlib import Path

from benchmarks.peers import H2, Command, Job, certificate


class Haproxy:
    """haproxy as installed."""

    name = "haproxy"
    routes = True
    protocols = ("http", "tls", "large", "websocket", *H2, "tcp", "bulk")
    version_command = ("haproxy", "-v")

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        file = directory / "haproxy.cfg"
        pem = str(certificate(directory)) if job.protocol == "tls" else ""
        file.write_text(config(job, pem))
        return Command(["haproxy", "-db", "-q", "-f", str(file)])


def config(job: Job, pem: str = "") -> str:
    """haproxy.cfg for `job`; pem: the file of key and certificate, for TLS."""
    mode = "http" if job.parses_http else "tcp"
    reuse = "  http-reuse always\n" if mode == "http" else ""
    up = " proto h2" if job.h2_upstream else ""
    backends = "\n".join(f"backend {name}\n{reuse}  server s 127.0.0.1:{port}{up}" for name, port in job.backends.items())
    down = " proto h2" if job.protocol in H2 else f" ssl crt {pem}" if pem else ""
    rules = _rules(job) if mode == "http" else ""
    return f"""global
  nbthread 1
  maxconn 8192
defaults
  mode {mode}
  timeout connect 3s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
frontend front
  bind 127.0.0.1:{job.port} backlog 4096{down}
{rules}  default_backend {job.default}
{backends}
"""


def _rules(job: Job) -> str:
    users = "".join(f"  use_backend {name} if {{ req.hdr({job.header}) -m str {value} }}\n" for value, name in job.users.items())
    return f"{users}  use_backend {job.prefix_to} if {{ path_beg {job.prefix} }}\n"
