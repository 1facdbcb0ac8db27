"""A whole team on this machine: a shadow, a laptop for each bridge, a proxy in front of them, ready to be loaded.

It answers "will it hold my team?" before there is a cluster to try: everything listens on free loopback ports and ends with the block.
"""

from benchmarks.measure import PROXY_CORE
from benchmarks.peers import Job
from benchmarks.peers.registry import PEERS
from benchmarks.processes import Children, StartError, free_ports, start_backend, wait_for_port

SHADOW = "shadow"
PROTOCOLS = ("http", "websocket")  # the ones in which a header says whose request it is


def start_team(children: Children, through: str, protocol: str, header: str, users: list[str]) -> int:
    """Start all of it with a bridge for each of `users`; returns the proxy's port. Raises `StartError` with the reason when that fails."""
    peer = next(peer for peer in PEERS if peer.name == through)
    why = peer.missing(protocol) if protocol in peer.protocols else f"{through} does not carry {protocol}"
    if why:
        raise StartError(why)
    names = [SHADOW, *users]
    ports = start_backend(children, names)
    backends = {name: ports[name] for name in names}
    job = Job(protocol, free_ports(1)[0], backends, SHADOW, header, {user: user for user in users}, prefix_to=SHADOW)
    command = peer.prepare(job, children.directory)
    child = children.start(through, command.arguments, PROXY_CORE, command.env)
    wait_for_port(job.port, child)
    return job.port
