import json

from benchmarks.load.tally import Tally


def tally_of(*micros):
    tally = Tally()
    tally.seconds = 2.0
    for each in micros:
        tally.record("john", None, "A", each / 1e6)
    return tally


def test_answers_are_counted_by_answerer():
    tally = tally_of(10, 20)
    tally.record("jane", None, "B", 0.001)
    assert tally.answered_by == {"A": 2, "B": 1} and tally.answers == 3 and tally.failures == 0


def test_an_answer_from_somebody_else_is_wrong_and_says_who():
    tally = Tally()
    tally.record("john", "john", "john", 0.001)
    tally.record("john", "john", "shadow", 0.001)
    assert tally.wrong == {"john wanted john, got shadow": 1} and tally.failures == 1


def test_percentiles_are_by_nearest_rank():
    tally = tally_of(*range(1, 101))
    assert [round(tally.latency(share) * 1e6) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]


def test_long_latencies_are_kept_within_a_thousandth():
    tally = tally_of(1_234_567)
    assert 0 <= 1_234_567 - tally.latency(0.5) * 1e6 <= 1_234_567 / 512


def test_the_memory_of_a_long_run_is_bounded():
    tally = tally_of(*range(0, 2_000_000, 7))
    assert len(tally.latencies) < 8192


def test_nothing_at_all_is_reported_as_such():
    report = Tally().report()
    assert report["answers"] == 0 and report["per_second"] == 0.0 and report["latency_ms"]["p99"] == 0.0
    assert json.dumps(report)


def test_the_report_counts_per_second_and_in_milliseconds():
    report = tally_of(1000, 3000).report()
    assert report["per_second"] == 1.0 and report["latency_ms"]["max"] > 2.9
