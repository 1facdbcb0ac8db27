"""The figures of the house (docs/house.py)."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
assert spec is not None and spec.loader is not None
house = importlib.util.module_from_spec(spec)
spec.loader.exec_module(house)


@pytest.fixture(scope="module")
def found():
    """The figures of this tree."""
    return house.figures(ROOT)


def test_no_import_goes_up_and_nothing_stands_in_a_circle(found):
    assert (found["imports upwards"], found["circles of rooms"], found["circles of files"]) == (0, 0, 0)


def test_no_file_of_the_product_is_longer_than_500_lines_nor_is_the_session(found):
    assert found["files above 500 lines"] == 0, found["largest file"]
    assert int(str(found["class Session"]).split()[0]) <= 500


def test_circles_and_chains_are_found_where_they_are():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert house.circles(arrows) == [["a", "b", "c"]]
    assert house.longest(arrows) == 3  # the circle, d, e


def test_an_import_upwards_is_seen_also_under_type_checking(tmp_path):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for name, text in {
        "carrier/core/session.py": "if TYPE_CHECKING:\n    from carrier.rules.match import Matcher\nclass Session:\n    pass\n",
        "carrier/rules/match.py": "import carrier.core.session\n",
        "listeners/tcp.py": "from carrier.rules import match\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = house.figures(tmp_path)
    assert found["imports upwards"] == 1 and found["circles of files"] == "1, of 2 files at most" and found["class Session"] == "2 lines"
