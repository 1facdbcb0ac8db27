"""The manifests say what the program takes."""

import subprocess
import sys
from pathlib import Path

import yaml

from carrier.cli.parser import parser
from carrier.config.source import loads

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"


def test_every_manifest_is_yaml_and_the_standalone_one_runs_what_the_command_takes():
    objects = list(yaml.safe_load_all((FOLDER / "standalone.yaml").read_text()))
    config = next(one for one in objects if one["kind"] == "ConfigMap")
    assert loads(config["data"]["carrier.yaml"]).config.listeners
    container = next(one for one in objects if one["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    options = parser().parse_args(container["command"][1:])
    assert (options.command, options.admin, options.watch) == ("run", None, True)
    assert yaml.safe_load((FOLDER / "operator.yaml").read_text())["spec"]["template"]


def test_the_image_has_what_runs_and_nothing_else_at_the_versions_of_the_checks():
    def locked(name):
        lines = (ROOT / name).read_text().splitlines()
        return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)

    found = subprocess.run([sys.executable, ROOT / "deploy" / "runtime_lock.py"], capture_output=True, text=True, check=True).stdout
    mine = locked("requirements.lock")
    assert set(mine) == {line.split("==")[0].replace("_", "-") for line in found.splitlines() if "==" in line}
    assert mine.items() <= locked("requirements-dev.lock").items()
    assert "aioquic" in mine and not {"pytest", "mypy", "kubernetes", "kopf", "grpcio"} & set(mine)
