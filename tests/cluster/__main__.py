"""`python -m tests.cluster [--node]`: a control plane, or a whole node, until Ctrl-C; prints how to talk to it."""

import signal
import sys
import tempfile
from pathlib import Path

from tests.cluster import control, gefyra
from tests.cluster.control import ControlPlane


def main(arguments: list[str]) -> int:
    """Run until somebody interrupts it."""
    if "--node" in arguments:
        from tests.cluster.node import Node, why_not_a_node

        if reason := why_not_a_node():
            print(reason, file=sys.stderr)
            return 1
        plane: ControlPlane = Node(Path(tempfile.mkdtemp(prefix="carrier2-")))
    else:
        if reason := control.why_not():
            print(reason, file=sys.stderr)
            return 1
        plane = ControlPlane(Path(tempfile.mkdtemp(prefix="carrier2-")))
    try:
        plane.start()
        plane.write_kubeconfig(plane.path / "operator", gefyra.install(plane))
        print(f"ready after {plane.ready_after:.1f} s, with Gefyra's kinds of objects; Ctrl-C ends it")
        print(f"KUBECONFIG={plane.kubeconfig} (administrator), {plane.path / 'operator'} (the role of Gefyra's operator)")
        signal.sigwait([signal.SIGINT, signal.SIGTERM])
    finally:
        plane.stop()
    return 0


sys.exit(main(sys.argv[1:]))
