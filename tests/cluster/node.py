"""A whole node: the control plane, kubelet with containerd and runc, kube-proxy, CoreDNS, in a network and mount namespace of its own.

It needs root, and to be started in such namespaces already (`make cluster-test NODE=1` is `unshare -n -m ...`): then nothing of it is seen
outside, and nothing outside is in its way. Pods have addresses of 10.244.0.0/24, Services of 10.96.0.0/16; 10.79.0.1 is the node, and
10.79.0.11 to 10.79.0.20 are laptops'. Images: ours, as `make image` built it, and an app made of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control import ControlPlane, why_not

ADDRESS = "10.79.0.1"
LAPTOPS = [f"10.79.0.{i}" for i in range(11, 21)]
APP = Path(__file__).with_name("app.py")
NODE_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "pause")
PACKAGES = ("etcd", "containerd", "runc", "podman", "iptables", "ip")
# What a kubelet sets, and a machine in a machine does not let it: it is shown what it wants to see.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def why_not_a_node() -> str:
    """What a node lacks here, as a sentence; "" when it can start."""
    if os.geteuid() != 0:
        return "a node needs root"
    if reason := why_not(NODE_PROGRAMS, PACKAGES):
        return reason
    if not os.path.exists("/usr/lib/cni/bridge"):
        return "containernetworking-plugins is not installed"
    own = ("lo", "d0", "cni0", "veth", "sit", "tunl", "gre", "erspan", "ip6", "ip_")
    names = [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    if any(not name.startswith(own) for name in names):
        return "a node needs a network of its own: `make cluster-test NODE=1` gives it one"
    return ""


class Node(ControlPlane):
    """See the module. image: ours."""

    def __init__(self, path: Path, image: str = "localhost/carrier2:latest") -> None:
        super().__init__(path, bind=ADDRESS)
        self.image = image

    def start(self, *more: str, controllers: str = "*") -> None:
        """Start all of it; the node is ready when this returns."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._network()
        images = [self._image_of_pause(), self._saved(self.image), self._image_of_the_app()]
        super().start(
            *("--allow-privileged=true", "--bind-address=0.0.0.0", f"--advertise-address={ADDRESS}"),
            *more,
            controllers="*,bootstrap-signer-controller,token-cleaner-controller" if controllers == "*" else controllers,
        )
        config = f"--kubeconfig={self.kubeconfig}"
        self.run("kube-scheduler", str(self.programs / "kube-scheduler"), config, "--leader-elect=false", "--bind-address=127.0.0.1")
        self._containerd(images)
        self._kubelet(config)
        self.run(
            "kube-proxy",
            *(str(self.programs / "kube-proxy"), config, "--hostname-override=node1", "--cluster-cidr=10.244.0.0/16"),
            *("--proxy-mode=iptables", "--conntrack-max-per-core=0"),
            *("--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"),
        )
        self._dns()
        self.until("the node is ready", self._is_ready, 60)
        self.ready_after = time.monotonic() - self.began

    def _is_ready(self) -> bool:
        status, text = self.ask("GET", "/api/v1/nodes/node1", check=False)
        conditions = (yaml.safe_load(text) if status == 200 else {}).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def stop(self) -> None:
        """End everything, the pods first."""
        for name in ("kubelet",):
            if name in self.processes:
                self.processes[name].terminate()
                self.processes[name].wait(10)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            tasks = self._ctr("tasks", "ls", "-q").split()
            for task in tasks:
                self._ctr("tasks", "kill", "-s", "SIGKILL", "-a", task)
        super().stop()
        for number in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            where = line.split()[1]
            if where.startswith(str(self.path)):
                subprocess.run(["umount", "-l", where], check=False, capture_output=True)

    def _left(self) -> list[int]:
        """What runs still: the shims, which name our folder, and all that they started."""
        parents: dict[int, int] = {}
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    words = (entry / "cmdline").read_text().replace("\0", " ")
                    if "containerd-shim" in words and str(self.path) in words:
                        found.add(int(entry.name))
        while more := {number for number, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found, reverse=True)

    def _ctr(self, *arguments: str) -> str:
        command = ["ctr", "-a", str(self.path / "ctd.sock"), "-n", "k8s.io", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    # ------------------------------------------------------------------ parts

    def _network(self) -> None:
        for command in (
            "ip link set lo up",
            "ip link add d0 type bridge",
            *(f"ip addr add {address}/24 dev d0" for address in (ADDRESS, *LAPTOPS)),
            "ip link set d0 up",
            "ip route add default dev d0",
        ):
            subprocess.run(command.split(), check=False, capture_output=True)
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _podman(self, *arguments: str) -> None:
        environment = {"CONTAINERS_CONF": str(Path(__file__).parents[2] / "deploy/image/containers.conf"), **os.environ}
        found = subprocess.run(["podman", *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False)
        if found.returncode:
            raise RuntimeError(f"podman {' '.join(arguments)}: {found.stderr}")

    def _saved(self, image: str) -> Path:
        found = self.path / f"{image.replace('/', '-').replace(':', '-')}.tar"
        self._podman("save", "--format", "docker-archive", "-o", str(found), image)
        return found

    def _built(self, name: str, dockerfile: str, *files: Path) -> Path:
        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                shutil.copy(file, folder)
            (Path(folder) / "Dockerfile").write_text(dockerfile)
            self._podman("build", "--isolation", "chroot", "-q", "-t", name, folder)
        return self._saved(name)

    def _image_of_pause(self) -> Path:
        return self._built("localhost/pause:1", 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n', self.programs / "pause")

    def _image_of_the_app(self) -> Path:
        shell = 'RUN ["/bin/busybox", "ln", "-sf", "busybox", "/usr/bin/sh"]'  # ours is no shell in a container that is not ours
        text = f'FROM {self.image}\n{shell}\nCOPY app.py /app.py\nENTRYPOINT ["/opt/carrier/bin/python", "-I", "/app.py"]\n'
        return self._built("localhost/app:1", text, APP)

    def _containerd(self, images: list[Path]) -> None:
        config = f"""version = 2
root = "{self.path}/ctd/root"
state = "{self.path}/ctd/state"
[grpc]
  address = "{self.path}/ctd.sock"
[debug]
  address = "{self.path}/ctd-debug.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.path}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
        (self.path / "ctd.toml").write_text(config)
        ranges = [[{"subnet": "10.244.0.0/24"}]]
        ipam = {"type": "host-local", "dataDir": str(self.path / "ipam"), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam}
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        (self.path / "cni").mkdir()
        (self.path / "cni" / "10-node.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "node", "plugins": plugins}))
        self.run("containerd", "containerd", "-c", str(self.path / "ctd.toml"))
        self.until("containerd serves", lambda: "Server:" in self._ctr("version"), 30)
        for image in images:
            self._ctr("images", "import", str(image))
            image.unlink()

    def _kubelet(self, config: str) -> None:
        fake = self.path / "fake"
        fake.mkdir()
        for name, value in SYSCTLS.items():
            file = fake / name.replace("/", "-")
            file.write_text(value)
            if os.path.exists(f"/proc/sys/{name}"):
                subprocess.run(["mount", "--bind", str(file), f"/proc/sys/{name}"], check=False, capture_output=True)
        settings: dict[str, Any] = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.path}/ctd.sock",
            "volumePluginDir": str(self.path / "vp"),
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "localStorageCapacityIsolation": False,
            "address": "0.0.0.0",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
            "resolvConf": "",
            "clusterDNS": [ADDRESS],
            "clusterDomain": "cluster.local",
        }
        (self.path / "kubelet.yaml").write_text(yaml.safe_dump(settings))
        self.run(
            "kubelet",
            *(str(self.programs / "kubelet"), config, f"--config={self.path / 'kubelet.yaml'}", f"--root-dir={self.path / 'kubelet'}"),
            *(f"--cert-dir={self.path / 'kubelet-certs'}", "--hostname-override=node1", f"--node-ip={ADDRESS}"),
        )

    def _dns(self) -> None:
        (self.path / "Corefile").write_text(
            f"cluster.local in-addr.arpa {{\n  bind {ADDRESS}\n  kubernetes cluster.local in-addr.arpa {{\n"
            f"    kubeconfig {self.kubeconfig} here\n    pods insecure\n    ttl 5\n  }}\n  errors\n}}\n"
            f". {{\n  bind {ADDRESS}\n  template ANY ANY {{\n    rcode NXDOMAIN\n  }}\n}}\n"
        )
        self.run("coredns", str(self.programs / "coredns"), "-conf", str(self.path / "Corefile"))
