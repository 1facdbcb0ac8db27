"""A real control plane on loopback: etcd, kube-apiserver and, for rollouts, kube-controller-manager. Any user, about four seconds.

The programs are those that deploy/cluster/build has built into its cache; etcd is Debian's. Ports are free ones, everything is in one
folder, and every process ends with `stop`, or with the process that started it. `why_not` says what is missing.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.ports import free_port

VERSION = "v1.34.4"
CONTROLLERS = "deployment-controller,replicaset-controller,statefulset-controller,endpointslice-controller,garbage-collector-controller"
START = 60.0
"""Seconds that the API server may take on a busy machine."""


def folder() -> Path:
    """Where deploy/cluster/build puts the programs."""
    cache = os.environ.get("CARRIER_CLUSTER") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "carrier2-cluster"
    )
    return Path(cache) / VERSION


def why_not(programs: Iterable[str] = ("kube-apiserver", "kube-controller-manager"), packages: Iterable[str] = ("etcd",)) -> str:
    """What a control plane lacks here, as a sentence; "" when it can start."""
    missing = [name for name in programs if not os.access(folder() / name, os.X_OK)]
    missing += [name for name in packages if shutil.which(name) is None]
    return f"{', '.join(missing)}: not here; `make cluster-build` builds what Debian does not have" if missing else ""


def _dies_with_its_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class ControlPlane:
    """See the module. enter: a command line to start the programs behind, such as that of a network namespace."""

    def __init__(self, path: Path, enter: tuple[str, ...] = (), bind: str = "127.0.0.1") -> None:
        self.path = path
        self.enter = enter
        self.bind = bind
        self.programs = folder()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.url = f"https://{bind}:{self.port}"
        self.kubeconfig = path / "kubeconfig"
        self.connections = threading.local()
        self.ready_after = 0.0
        self.began = time.monotonic()

    # ------------------------------------------------------------------ its life

    def start(self, *more: str, controllers: str = CONTROLLERS) -> None:
        """Start everything and wait until it serves. more: arguments of the API server. Raises RuntimeError with what a program said."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_keys()
        etcd, peer = free_port(), free_port()
        self.run(
            "etcd",
            *("etcd", "--data-dir", str(self.path / "etcd-data"), "--unsafe-no-fsync"),
            *("--listen-client-urls", f"http://127.0.0.1:{etcd}", "--advertise-client-urls", f"http://127.0.0.1:{etcd}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
        )
        keys = self.path
        self.run(
            "kube-apiserver",
            str(self.programs / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            *(f"--bind-address={self.bind}", f"--advertise-address={self.bind}", f"--secure-port={self.port}"),
            f"--cert-dir={self.path / 'certificates'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-signing-key-file={keys / 'sa.key'}", f"--service-account-key-file={keys / 'sa.pub'}"),
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--token-auth-file={keys / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--kubelet-preferred-address-types=InternalIP",
            *more,
        )
        self._wait()
        if controllers:
            self.run(
                "kube-controller-manager",
                str(self.programs / "kube-controller-manager"),
                f"--kubeconfig={self.kubeconfig}",
                f"--service-account-private-key-file={keys / 'sa.key'}",
                *("--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={free_port()}"),
                f"--controllers={controllers}",
            )

    def run(self, name: str, *command: str, enter: tuple[str, ...] | None = None, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program; its output goes to a file of its name."""
        with open(self.path / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*(self.enter if enter is None else enter), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_dies_with_its_parent,
                **more,
            )
        return self.processes[name]

    def stop(self) -> None:
        """End every process, the last one first: nothing of it is needed again."""
        for process in reversed(self.processes.values()):
            process.kill()
        for process in self.processes.values():
            process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START
        while self.ask("GET", "/readyz", check=False)[1] != b"ok":
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {self.said(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the API server is not ready after {START:g} s: {self.said('kube-apiserver')}")
            time.sleep(0.05)
        self.ready_after = time.monotonic() - self.began

    def said(self, name: str, lines: int = 20) -> str:
        """The last lines of a program."""
        return "\n".join((self.path / f"{name}.log").read_text("utf-8", "replace").splitlines()[-lines:])

    def resident(self, name: str) -> int:
        """KiB of resident memory of a program."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    # ------------------------------------------------------------------ who may call

    def _write_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.NoEncryption()
        (self.path / "sa.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, form)
        )
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (self.path / "sa.pub").write_bytes(public)
        (self.path / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self.write_kubeconfig(self.kubeconfig, self.token)

    def write_kubeconfig(self, path: Path, token: str) -> None:
        """A client's configuration that calls with this token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "here", "cluster": {"server": self.url, "certificate-authority": str(self.path / "certificates/apiserver.crt")}}
            ],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "user"}}],
            "current-context": "here",
        }
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)

    def token_of(self, namespace: str, account: str) -> str:
        """A token of a ServiceAccount, as a pod would have it."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        found = self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
        return str(found["status"]["token"])

    # ------------------------------------------------------------------ calls

    def ask(self, method: str, path: str, body: object = None, content: str = "application/json", check: bool = True) -> tuple[int, bytes]:
        """One call as the administrator: status and body; (0, why) when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.token}", **({"content-type": content} if data is not None else {})}
        for last in (False, True):  # a connection that was kept may be closed by now
            try:
                connection = self._connection()
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
                break
            except (OSError, http.client.HTTPException) as exc:
                self.connections.__dict__.clear()
                if last:
                    if check:
                        raise
                    return 0, str(exc).encode()
        if check and status >= 300:
            raise RuntimeError(f"{method} {path}: {status}: {text.decode('utf-8', 'replace')}")
        return status, text

    def _connection(self) -> http.client.HTTPSConnection:
        """This thread's connection."""
        found: http.client.HTTPSConnection | None = getattr(self.connections, "found", None)
        if found is None:
            context = ssl._create_unverified_context()
            found = self.connections.found = http.client.HTTPSConnection(self.bind, self.port, timeout=10, context=context)
        return found

    def watch(self, path: str, changed: Callable[[], object]) -> Callable[[], object]:
        """Call `changed`, in another thread, whenever one of the objects of a kind may have changed; returns what ends it."""
        connection = http.client.HTTPSConnection(self.bind, self.port, context=ssl._create_unverified_context())
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
                    connection.request("GET", f"{path}?watch=true", headers={"authorization": f"Bearer {self.token}"})
                    for _ in iter(connection.getresponse().readline, b""):
                        if not ended.is_set():
                            changed()
                connection.close()
                ended.wait(0.2)

        def end() -> None:
            ended.set()
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=read, name=f"watch {path}", daemon=True).start()
        return end

    def call(self, method: str, path: str, body: object = None, content: str = "application/json") -> Any:
        """The object that a call is answered with. Raises RuntimeError with the reason."""
        return json.loads(self.ask(method, path, body, content)[1])

    def apply(self, *documents: Any) -> None:
        """Create or change objects, as `kubectl apply --server-side` does."""
        for document in documents:
            path = self.path_of(document["apiVersion"], document["kind"], document["metadata"].get("namespace"))
            name = document["metadata"]["name"]
            self.call("PATCH", f"{path}/{name}?fieldManager=test&force=true", document, "application/apply-patch+yaml")

    @staticmethod
    def path_of(version: str, kind: str, namespace: str | None = None) -> str:
        """The path of a kind's objects."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        lower = kind.lower()
        plural = lower if lower.endswith("s") else lower[:-1] + "ies" if lower.endswith("y") else lower + "s"
        return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"

    def until(self, what: str, look: Any, patience: float = 20.0) -> Any:
        """What `look` gives as soon as it gives something."""
        deadline = time.monotonic() + patience
        while not (found := look()):
            assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
            time.sleep(0.05)
        return found


def encoded(text: str) -> str:
    """As a Secret has it."""
    return base64.b64encode(text.encode()).decode()
