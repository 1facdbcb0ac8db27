"""All peers by name, in the order of the tables."""

import os

from benchmarks.peers import Peer
from benchmarks.peers.baseline import BareTls, Ceiling
from benchmarks.peers.carrier import Carrier
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.haproxy import Haproxy
from benchmarks.peers.nginx import LOG, Nginx
from benchmarks.peers.node import Node

OURS = "carrier"
DIRECT = "direct"  # no proxy at all: measured where a scenario asks how much of the bare figure is left

PEERS: tuple[Peer, ...] = (
    Carrier(),
    Carrier("carrier-100", ("rules",), 100),
    Carrier("carrier-1000", ("rules",), 1000),
    *([Carrier("carrier-other", tree=os.environ["CARRIER_OTHER"])] if os.environ.get("CARRIER_OTHER") else []),
    Carrier("carrier-2", ("http",), endpoints=2),
    Carrier("carrier-20", ("http",), endpoints=20),
    Carrier("carrier-ws", ("websocket",)),
    Carrier("carrier-bare", ("http",), more=("--no-metrics",)),
    Carrier("carrier-watched", ("http", "large"), more=("--access-log", "DIR/access.log")),
    Nginx(),
    Nginx("nginx-tuned", ("large", "bulk")),
    Nginx("nginx-watched", ("http", "large"), LOG),
    Haproxy(),
    Envoy(),
    Node(),
    Ceiling(),
    BareTls(),
)
