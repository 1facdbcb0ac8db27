"""node http-proxy: what most developers' tools use to forward HTTP.

It is looked for where `npm install --prefix benchmarks/results/node http-proxy` puts it.
"""

import json
import shutil
from pathlib import Path

from benchmarks.peers import Command, Job

MODULES = Path(__file__).parents[1] / "results" / "node" / "node_modules"

PROGRAM = """
const http = require('http'), httpProxy = require('http-proxy'), job = JSON.parse(process.env.JOB);
const agent = new http.Agent({keepAlive: true, maxSockets: 4096});
const proxy = httpProxy.createProxyServer({agent});
proxy.on('error', (error, req, res) => { if (res.writeHead) res.writeHead(502); res.end(); });
const target = req => 'http://127.0.0.1:' + job.backends[
  job.users[req.headers[job.header]] || (req.url.startsWith(job.prefix) ? job.prefix_to : job.default)];
const server = http.createServer((req, res) => proxy.web(req, res, {target: target(req)}));
server.on('upgrade', (req, socket, head) => proxy.ws(req, socket, head, {target: target(req), agent: false}));
server.keepAliveTimeout = 300000;
server.listen(job.port, '127.0.0.1', 4096);
"""


class Node:
    """node with the npm package http-proxy."""

    name = "node"
    routes = True
    protocols = ("http", "large", "websocket")
    version_command = ("node", "--version")

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        if not shutil.which("node"):
            return "node is not installed"
        return None if (MODULES / "http-proxy").exists() else "npm install --prefix benchmarks/results/node http-proxy"

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        file = directory / "proxy.js"
        file.write_text(PROGRAM)
        return Command(["node", str(file)], {"JOB": config(job), "NODE_PATH": str(MODULES), "NODE_ENV": "production"})


def config(job: Job) -> str:
    """The job as the program reads it, JSON."""
    fields = ("port", "default", "header", "prefix", "prefix_to")
    return json.dumps({"backends": dict(job.backends), "users": dict(job.users), **{name: getattr(job, name) for name in fields}})
