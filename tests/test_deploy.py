"""The manifests say what the program takes."""

from pathlib import Path

import yaml

from carrier.cli import main as cli
from carrier.config.source import loads

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"


def test_every_manifest_is_yaml_and_the_standalone_one_runs_what_the_command_takes():
    objects = list(yaml.safe_load_all((FOLDER / "standalone.yaml").read_text()))
    config = next(one for one in objects if one["kind"] == "ConfigMap")
    assert loads(config["data"]["carrier.yaml"]).config.listeners
    container = next(one for one in objects if one["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    options = cli.parser().parse_args(container["command"][1:])
    assert (options.command, options.admin, options.watch) == ("run", None, True)
    assert yaml.safe_load((FOLDER / "operator.yaml").read_text())["spec"]["template"]
