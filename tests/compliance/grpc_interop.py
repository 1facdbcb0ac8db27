"""gRPC's own interoperability suite through the proxy, its client and its server: `make grpc-interop`.

In clear text, over TLS on both sides, and through a port of `protocol: auto`. What needs credentials of a cloud is left out.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.compliance.gotools import built
from tests.pki import Pki
from tests.ports import free_port
from tests.support import config, port_of, running

VERSION = "v1.85.0"
CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
)


def way(
    name: str, protocol: str, port: int, front: dict[str, object], back: dict[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """A cluster and a listener that leads to it."""
    cluster = {"name": name, "spec": {"protocol": protocol, "port": port, **back}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    listener = {
        "name": name,
        "spec": {"protocol": protocol, "port": 0, "address": "127.0.0.1", **front},
        "rules": [{"name": name, "action": {"route": {"destination": name}}}],
    }
    return cluster, listener


async def passes(program: Path, port: int, case: str, *options: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        program, "-server_host", "127.0.0.1", "-server_port", str(port), "-test_case", case, *options, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        said = b"it did not end within 30 s"
    if process.returncode:
        print(f"{case} {' '.join(options)}: {said.decode(errors='replace')[-400:]}")
    return process.returncode == 0


async def main(programs: Path) -> int:
    servers = []
    with tempfile.TemporaryDirectory() as folder:
        pki = Pki(Path(folder))
        tls = pki("server", "localhost", "127.0.0.1")
        ports = [free_port(), free_port()]
        secured = ["-use_tls", "-tls_cert_file", tls["certificate"], "-tls_key_file", tls["key"]]
        for port, options in zip(ports, ([], secured), strict=True):
            servers.append(await asyncio.create_subprocess_exec(programs / "server", "-port", str(port), *options))
        trusting = ["-use_tls", "-use_test_ca", "-ca_file", pki.ca, "-server_host_override", "localhost"]
        ways = {
            "clear": (way("clear", "HTTP", ports[0], {}, {"http": 2}), []),
            "tls": (way("tls", "HTTP", ports[1], {"tls": tls}, {"tls": {"ca": pki.ca, "sni": "localhost"}}), trusting),
            "auto": (way("auto", "auto", ports[0], {}, {}), []),
        }
        try:
            await asyncio.sleep(1)
            conf = config(clusters=[pair[0] for pair, _ in ways.values()], listeners=[pair[1] for pair, _ in ways.values()])
            failed = 0
            async with running(conf) as proxy:
                for name, (_, options) in ways.items():
                    good = [case for case in CASES if await passes(programs / "client", port_of(proxy, name), case, *options)]
                    print(f"gRPC interop, {name}: {len(good)} of {len(CASES)}")
                    failed += len(CASES) - len(good)
        finally:
            for server in servers:
                server.kill()
                await server.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    found = built(f"google.golang.org/grpc/interop/client@{VERSION}", f"google.golang.org/grpc/interop/server@{VERSION}")
    sys.exit(asyncio.run(main(found)))
