"""What is loaded when: the core finds protocols by name, when one is asked for. (What may import what: `lint-imports` in `make check`.)"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = ("listeners", "clusters", "transforms")
CORE = sorted((ROOT / "carrier").rglob("*.py"))


def test_importing_the_whole_core_loads_no_protocol():
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in CORE]
    apart = ("__main__", "gefyra.operator")  # these run what they import, and the latter only where Gefyra's operator is
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules if not name.endswith(apart))
    code += f"print([name for name in sys.modules if name.partition('.')[0] in {PROTOCOLS!r}])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


def test_a_protocol_that_nobody_uses_is_not_loaded(tmp_path):
    file = tmp_path / "tcp.yaml"
    file.write_text(
        "listeners: [{name: a, spec: {protocol: TCP, port: 1}, rules: [{action: {route: {destination: {spec: {protocol: Echo}}}}}]}]"
    )
    code = f"import sys; from carrier.cli.main import main; main(['check', {str(file)!r}])\n"
    code += "print('aioquic' in sys.modules, 'listeners.udp' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert found.stdout.splitlines()[-1] == "False False"


def test_a_start_waits_for_no_library_that_only_few_need():
    """A pod does not serve while its proxy starts, most of which is imports; and it is led over REST, in JSON."""
    code = "import sys, carrier.gefyra.daemon, listeners.auto, clusters.http.cluster\n"
    code += "print([name for name in ('yaml', 'h11', 'gzip', 'graphlib', 'http.cookies', 'cryptography') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


@pytest.mark.parametrize("package", PROTOCOLS)
def test_each_protocol_file_has_its_entry_point(package):
    from importlib.metadata import entry_points

    known = {point.value.partition(":")[0] for point in entry_points(group="carrier.clusters")}
    known |= {point.value.partition(":")[0] for group in PROTOCOLS for point in entry_points(group=f"carrier.{group}")}
    text = "".join(file.read_text() for file in (ROOT / package).glob("*.py"))
    for file in (ROOT / package).glob("*.py"):
        helper = f"{package}.{file.stem}" in text  # a file that the package's protocols share
        assert file.stem == "__init__" or helper or f"{package}.{file.stem}" in known, file.name
