"""What it costs to see: every variant is a configuration that is fine; what viewers count; the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import live
from benchmarks.live import OFF, USUAL, VARIANTS, Row, table, written
from benchmarks.viewers import Seen
from carrier.config.source import loads
from carrier.observe.filters import Wanted
from carrier.observe.live import VIEWERS

PORTS = {"A": 9001, "B": 9002, "D": 9003}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_configuration_that_is_fine(name: str, tmp_path: Path) -> None:
    loaded = loads(written(VARIANTS[name], tmp_path, 8000, 1234, PORTS).read_bytes())
    assert not loaded.warnings and VARIANTS[name].beside in VARIANTS


def test_everything_is_all_that_the_others_are(tmp_path: Path) -> None:
    conf = loads(written(VARIANTS["everything"], tmp_path, 8000, 1234, PORTS).read_bytes()).config
    assert conf.admin.options["traces"] == {"endpoint": "http://127.0.0.1:9003", "ratio": 0.01}
    assert conf.admin.options["access_log"]["path"] == str(tmp_path / "access.log")
    assert VARIANTS["everything"].ids and not VARIANTS[OFF].ids, "the load brings ids where none are to be made"
    assert "--no-metrics" in VARIANTS[OFF].options and "--no-metrics" not in VARIANTS["everything"].options and VARIANTS["everything"].kept


def test_fifty_filters_are_fifty_groups_and_no_more_viewers_than_there_may_be() -> None:
    keys = {Wanted(dict(pair.split("=") for pair in query.split("&") if pair)).key for query in live.FILTERS}
    assert len(keys) == len(live.FILTERS) == live.VIEWERS <= VIEWERS


def test_a_viewer_counts_events_and_losses_whatever_the_pieces() -> None:
    stream = b": carrier events\nretry: 2000\n\n"
    stream += b'id: 1\nevent: request\ndata: {"event":"request"}\n\n' * 3 + b'event: lost\ndata: {"event": "lost", "events": 70}\n\n:\n\n'
    for step in (1, 7, len(stream)):
        seen = Seen()
        for at in range(0, len(stream), step):
            seen.take(stream[at : at + step])
        assert (seen.events, seen.lost, seen.size) == (3, 70, len(stream))


def test_differences_are_taken_round_by_round_and_their_median_is_shown() -> None:
    rows = {
        OFF: Row([10.0, 30.0, 20.0], [100.0], turn=0.001),
        "log": Row([12.0, 33.0, 21.0], [90.0], turn=0.002),
        USUAL: Row([10.0] * 3, [100.0]),
        "50 viewers": Row([11.0] * 3, [100.0], {"events": 5000, "lost": 70}, 0.004),
    }
    lines = table(rows).splitlines()
    assert lines[1].split() == ["off", "20.0", "100", "1.0", "ms"]
    assert lines[2].split() == ["log", "21.0", "+2.0", "1.10", "(1.05-1.20)", "90", "2.0", "ms"]
    assert lines[4].startswith("50 viewers") and "+1.0" in lines[4] and lines[4].endswith("5,000 events told, 70 lost")


def test_an_unknown_variant_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        live.main(["logs"])
    assert "unknown: logs" in capsys.readouterr().err


def test_help_names_the_variants(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        live.main(["--help"])
    assert "traces 1 %" in capsys.readouterr().out
