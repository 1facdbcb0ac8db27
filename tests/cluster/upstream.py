"""Gefyra's own operator in place of our double, where its source is at hand: `make cluster-test NODE=1 GEFYRA=FOLDER`.

FOLDER is a clone of github.com/gefyrahq/gefyra (tried: 2.5.4, which our double is like). The operator's packages (kopf, python-decouple,
python-statemachine, pydantic) and our distribution have to be importable by the Python that CARRIER_GEFYRA_PYTHON names, else by this one.
Stowaway, whose image needs WireGuard, is stood in for: Services with its names, which lead straight to laptops.

This file is also the program that kopf runs (`kopf run ... upstream.py`).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.control import ControlPlane

NAMESPACE = "gefyra"
FIRST_PORT = 10_000


class Upstream:
    """A process of the operator. level: 2 with our providers, 1 without."""

    def __init__(
        self, control: ControlPlane, kubeconfig: Path, level: int = 2, connection: Any = None, image: str = "localhost/carrier2"
    ) -> None:
        self.control = control
        self.kubeconfig = kubeconfig
        self.level = level
        self.image = image
        self.connection = connection
        """Of our double; this one has its own."""
        self.log = kubeconfig.parent / f"gefyra-{len(list(kubeconfig.parent.glob('gefyra-*')))}.log"

    async def start(self) -> None:
        """It runs when this returns; it is ready a few seconds later, and what was made until then is its work then."""
        python = os.environ.get("CARRIER_GEFYRA_PYTHON") or sys.executable
        folder = Path(os.environ["CARRIER_GEFYRA"]) / "operator"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}",
            "PYTHONUNBUFFERED": "1",
            "KUBECONFIG": str(self.kubeconfig),
            "ADMIN": str(self.control.kubeconfig),
            "LEVEL": str(self.level),
            "GEFYRA_CARRIER2_IMAGE": self.image,
            "GEFYRA_CARRIER2_IMAGE_TAG": "latest",
        }
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [python, "-m", "kopf", "run", "-A", __file__],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while b"components installed" not in self.log.read_bytes():
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    @property
    def errors(self) -> list[str]:
        """What its log says that no user should read."""
        text = self.log.read_text("utf-8", "replace")
        return re.findall(r"^(?:Traceback.*(?:\n[ \t].*)*\n.*|.*never awaited.*|.*Unexpected error.*)$", text, re.MULTILINE)


def _run() -> None:
    """What kopf runs: the operator's own main module, after ours."""
    own = str(Path(__file__).parent)  # kopf puts it first, and its files have names of other people's modules
    sys.path[:] = [path for path in sys.path if path != own]
    import kubernetes

    kubernetes.config.load_kube_config()
    _stand_in()
    if os.environ["LEVEL"] == "2":
        import carrier.gefyra.operator  # noqa: F401 - as docs/gefyra.md says
    import main  # noqa: F401


def _stand_in() -> None:
    import kubernetes
    from gefyra.connection.abstract import AbstractGefyraConnectionProvider
    from gefyra.connection.factory import ConnectionProviderType, connection_provider_factory

    client = kubernetes.config.new_client_from_config(os.environ["ADMIN"])
    core, discovery = kubernetes.client.CoreV1Api(client), kubernetes.client.DiscoveryV1Api(client)
    lock = asyncio.Lock()

    def found(peer: str, ip: str, port: int) -> Any:
        services = core.list_namespaced_service(NAMESPACE, label_selector="gefyra.dev/role=proxy").items
        return services, next((one for one in services if one.metadata.annotations.get("for") == f"{peer}/{ip}/{port}"), None)

    def address(service: Any) -> str:
        return f"{service.metadata.name}.{NAMESPACE}.svc.cluster.local:{service.spec.ports[0].port}"

    def add(peer: str, ip: str, target: int) -> str:
        services, _ = found(peer, ip, target)
        port = next(port for port in range(FIRST_PORT, 2 * FIRST_PORT) if port not in {one.spec.ports[0].port for one in services})
        name = f"gefyra-stowaway-proxy-{port}"
        labels = {"kubernetes.io/service-name": name}
        part = {"addressType": "IPv4", "ports": [{"name": "", "port": int(target), "protocol": "TCP"}]}
        endpoints = [{"addresses": [ip], "conditions": {"ready": True}}]
        discovery.create_namespaced_endpoint_slice(
            NAMESPACE, {"metadata": {"name": name, "labels": labels}, **part, "endpoints": endpoints}
        )
        metadata = {"name": name, "labels": {"gefyra.dev/role": "proxy"}, "annotations": {"for": f"{peer}/{ip}/{target}"}}
        return address(core.create_namespaced_service(NAMESPACE, {"metadata": metadata, "spec": {"ports": [{"port": port}]}}))

    def remove(peer: str, ip: str, target: int) -> None:
        _, service = found(peer, ip, target)
        if service is not None:
            core.delete_namespaced_service(service.metadata.name, NAMESPACE)
            discovery.delete_namespaced_endpoint_slice(service.metadata.name, NAMESPACE)

    class Gate(AbstractGefyraConnectionProvider):  # type: ignore[misc]
        provider_type = "stowaway"

        async def installed(self, config: Any = None) -> bool:
            return True

        async def install(self, config: Any = None) -> None: ...

        async def uninstall(self, config: Any = None) -> None: ...

        async def ready(self) -> bool:
            return True

        async def add_peer(self, peer_id: str, parameters: Any = None) -> None: ...

        async def remove_peer(self, peer_id: str) -> None: ...

        async def get_peer_config(self, peer_id: str) -> dict[str, str]:
            return {}

        async def peer_exists(self, peer_id: str) -> bool:
            return True

        async def validate(self, gclient: Any, hints: Any) -> None: ...

        async def add_destination(self, peer_id: str, destination_ip: str, destination_port: int, parameters: Any = None) -> str:
            async with lock:
                return await asyncio.to_thread(add, peer_id, destination_ip, destination_port)

        async def remove_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> None:
            await asyncio.to_thread(remove, peer_id, destination_ip, destination_port)

        async def destination_exists(self, peer_id: str, destination_ip: str, destination_port: int) -> bool:
            return (await asyncio.to_thread(found, peer_id, destination_ip, destination_port))[1] is not None

        async def get_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> str:
            service = (await asyncio.to_thread(found, peer_id, destination_ip, destination_port))[1]
            if service is None:
                raise RuntimeError("no destination")
            return address(service)

    connection_provider_factory.register_builder(ConnectionProviderType.STOWAWAY, lambda *_, **__: Gate())


if os.environ.get("LEVEL"):
    _run()
