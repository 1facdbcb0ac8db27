"""nginx: one worker, keep-alive to the upstreams, no access log. `nginx-tuned` has larger buffers, where bodies or streams are large;
`nginx-watched` does what a carrier with an access log does: the same fields in the log, X-Forwarded-* and a request id to the upstream.

One buffer is larger in both: a post of exactly the default size would wait 40 ms for an acknowledgement at each request. The routing job is
a `map` on the header and a prefix location; TCP and UDP need the stream module, which distributions ship on its own. To upstreams it speaks
HTTP/2 for gRPC only.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import H2, Command, Job, certificate

PROTOCOLS = ("http", "tls", "large", "websocket", "h2", "grpc", "tcp", "bulk", "udp")
STREAM_MODULE_PATHS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules", "/etc/nginx/modules")
STREAM_BUFFERS = {"nginx": "", "nginx-tuned": "proxy_buffer_size 256k;"}
HTTP_BUFFERS = {
    "nginx": "",
    "nginx-tuned": "proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
    "nginx-watched": """proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id;""",
}
LOG = """log_format watched escape=json '{"time":"$time_iso8601","client":"$remote_addr:$remote_port","duration":$request_time,'
    '"bytes_in":$request_length,"bytes_out":$bytes_sent,"status":$status,"id":"$request_id","method":"$request_method","path":"$request_uri",'
    '"host":"$host","listener":"in","protocol":"HTTP","rule":"default","why":"rule default: anything","cluster":"$proxy_host",'
    '"endpoint":"$upstream_addr"}';
  access_log DIR/access.log watched buffer=128k flush=1s;"""
TLS = "ssl_certificate DIR/server.pem; ssl_certificate_key DIR/server.pem; ssl_protocols TLSv1.2 TLSv1.3;"
"""The versions that nginx speaks by itself since 1.23.4, and all others here: a handshake of 1.2 costs less than one of 1.3."""


class Nginx:
    """nginx as installed, or with larger stream buffers."""

    routes = True
    version_command = ("nginx", "-v")

    def __init__(self, name: str = "nginx", protocols: Sequence[str] = PROTOCOLS, more: str = ""):
        self.name = name
        self.protocols = protocols
        self.more = more  # of the configuration of HTTP; DIR is the directory of this run

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        if not shutil.which("nginx"):
            return "nginx is not installed"
        if protocol in ("tcp", "udp", "bulk") and stream_module() is None:
            return "nginx has no stream module (Debian: libnginx-mod-stream)"
        return None

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        file = directory / "nginx.conf"
        if job.protocol == "tls":
            certificate(directory)
        buffers = (HTTP_BUFFERS if job.parses_http else STREAM_BUFFERS).get(self.name, "")
        log = self.more.replace("DIR", str(directory)) or "access_log off;"
        file.write_text(config(job, directory, stream_module() or "", buffers, log))
        return Command(["nginx", "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")])


def stream_module() -> str | None:
    """The line that loads the stream module: empty when it is built in, None when there is none."""
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=False).stderr
    if "--with-stream " in built or built.rstrip().endswith("--with-stream"):
        return ""
    for directory in STREAM_MODULE_PATHS:
        if os.path.exists(f"{directory}/ngx_stream_module.so"):
            return f"load_module {directory}/ngx_stream_module.so;"
    return None


def config(job: Job, directory: Path, module: str = "", buffers: str = "", log: str = "access_log off;") -> str:
    """nginx.conf for `job`."""
    body = _http(job, directory, buffers, log) if job.parses_http else _stream(job, buffers)
    load = "" if job.parses_http else module
    return f"""{load}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
{body}
"""


def _http(job: Job, directory: Path, buffers: str, log: str) -> str:
    upstreams = "\n".join(
        f"  upstream {name} {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 1000000000; }}"
        for name, port in job.backends.items()
    )
    users = "".join(f" {value} {name};" for value, name in job.users.items())
    header = job.header.replace("-", "_")
    onward = "grpc_pass grpc" if job.protocol == "grpc" else "proxy_pass http"
    http2 = " http2" if job.protocol in H2 else ""
    tls = TLS.replace("DIR", str(directory)) if job.protocol == "tls" else ""
    http2 += " ssl" if tls else ""
    temporary = "\n".join(f"  {kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""http {{
  {log}
{temporary}
  keepalive_requests 1000000000;
  tcp_nodelay on;
{upstreams}
  map $http_{header} $chosen {{ default {job.default};{users} }}
  map $chosen $chosen_by_path {{ default $chosen; {job.default} {job.prefix_to}; }}
  map $http_upgrade $connection_up {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{job.port} backlog=4096{http2};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Connection $connection_up;
    proxy_set_header Upgrade $http_upgrade;
    {tls}
    client_max_body_size 0;
    client_body_buffer_size 64k;
    {buffers}
    location {job.prefix} {{ {onward}://$chosen_by_path; }}
    location / {{ {onward}://$chosen; }}
  }}
}}"""


def _stream(job: Job, buffers: str) -> str:
    datagrams = " udp reuseport" if job.protocol == "udp" else " backlog=4096"
    return f"""stream {{
  server {{
    listen 127.0.0.1:{job.port}{datagrams};
    {buffers}
    proxy_pass 127.0.0.1:{job.backends[job.default]};
  }}
}}"""
