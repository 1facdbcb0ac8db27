"""What README and docs tell people to type works."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carrier.cli import main
from carrier.config import Config
from carrier.demo import free_ports
from carrier.source import load

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "docs" / "examples").iterdir())


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_fine(file, capsys):
    assert main(["check", str(file)]) == 0
    assert "0 warnings" in capsys.readouterr().out


def test_the_readme_shows_the_example_that_it_names():
    assert blocks("yaml", README)[0] in (ROOT / "docs" / "examples" / "quickstart.yaml").read_text()


def test_the_readmes_curl_lines_do_what_it_says(tmp_path):
    web, admin, laptop = free_ports(3)

    def here(text):
        return text.replace("8080", str(web)).replace("1234", str(admin)).replace("8000", str(laptop))

    file = tmp_path / "quickstart.yaml"
    file.write_text(here(blocks("yaml", README)[0]))
    lines = [here(line) for line in blocks("sh", README)[0].splitlines()]
    assert len(lines) == 3
    command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", f"127.0.0.1:{admin}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert any("ready" in line for line in process.stderr)
        shadow, bridge, fallback = (subprocess.run(line, shell=True, capture_output=True, text=True, timeout=10).stdout for line in lines)
    finally:
        process.terminate()
        process.communicate(timeout=15)
    assert shadow.startswith("HTTP/1.1 200") and shadow.endswith("hello") and "x-carrier-fallback" not in shadow
    assert json.loads(bridge)["status"] == 200
    assert "x-carrier-fallback: refused" in fallback and fallback.endswith("hello")


def test_the_bridge_of_the_docs_is_one():
    from carrier.bridge import Bridges

    text = (ROOT / "docs" / "bridges.md").read_text()
    body = json.loads(re.search(r"-d '(\{.*?\n  \})'", text, re.S)[1])
    config: Config = load(ROOT / "docs" / "examples" / "pod.yaml").config
    bridge = Bridges().put(config, "john", body).bridges["john"]
    assert bridge.expires == pytest.approx(time.time() + 3600, abs=60)


def test_links_lead_somewhere():
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def modules_named_by_the_architecture():
    """Package -> names of the files that docs/architecture.md has a line on."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    core, rest = text.split("## The core: `carrier/`")[1].split("| `carrier/gefyra/` |")
    gefyra, protocols = rest.split("## Protocols")
    rows = [line.split("|") for line in protocols.splitlines() if line.startswith("|")]
    parts = {
        "carrier": core,
        "carrier/gefyra": gefyra,
        "listeners": "".join(row[1] for row in rows),
        "clusters": "".join(row[3] for row in rows),
        "transforms": protocols.split("`transforms/`:")[1].split("To add one")[0],
    }
    return {package: set(re.findall(r"`(\w+\.py)`", part)) for package, part in parts.items()}


@pytest.mark.parametrize("package", ["carrier", "carrier/gefyra", "listeners", "clusters", "transforms"])
def test_the_architecture_names_every_module_and_no_other(package):
    there = {file.name for file in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert modules_named_by_the_architecture()[package] == there
