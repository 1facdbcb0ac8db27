import json

import pytest

from benchmarks.report import Result, Sample, as_json, growth, ratios, row, summary, table


def sample(cpu, operations=1000.0, **more):
    fields = {"seconds": 2.0, "p50": 0.001, "p99": 0.002, "errors": 0, "rss": 2**20, "others": 0.0} | more
    return Sample(operations, cpu=cpu, **fields)


def result(**samples):
    return Result("scene", "request", "ours", samples, {"absent": "not installed"})


def test_a_ratio_above_one_means_that_ours_uses_less():
    assert ratios(result(ours=[sample(0.01)], theirs=[sample(0.03)]), "theirs") == [pytest.approx(3.0)]


def test_ratios_compare_rounds_with_each_other_so_that_a_slow_machine_cancels_out():
    found = result(ours=[sample(0.01), sample(0.02)], theirs=[sample(0.02), sample(0.04)])
    assert ratios(found, "theirs") == [pytest.approx(2.0), pytest.approx(2.0)]


def test_cost_is_per_operation():
    assert row(result(ours=[sample(0.01, 1000)]), "ours")["cpu_us"] == pytest.approx(10)
    assert row(result(ours=[sample(0.01, 500)]), "ours")["cpu_us"] == pytest.approx(20)


def test_a_round_in_which_nothing_was_done_has_no_cost():
    found = result(ours=[sample(0.01, 0.0)], theirs=[sample(0.01)])
    assert row(found, "ours")["cpu_us"] is None and ratios(found, "theirs") == []


def test_figures_are_medians_but_errors_are_added_up_and_memory_is_the_largest():
    samples = [sample(0.01, errors=1, rss=2**20), sample(0.05, errors=2, rss=3 * 2**20), sample(0.02, rss=2**21)]
    found = row(result(ours=samples), "ours")
    assert (found["cpu_us"], found["errors"], found["rss_mib"]) == (pytest.approx(20), 3, 3)


def test_growth_is_what_each_operation_left_behind_after_the_first_round():
    samples = [sample(0.01, 9000.0, rss=2**20), sample(0.01, 6000.0, rss=2**20 + 5000), sample(0.01, 2000.0, rss=2**20 + 24_000)]
    assert growth(samples) == pytest.approx(3.0)
    assert "| 1 | 3.0 | 0 | 0% |" in table(result(ours=samples))


def test_one_round_and_no_process_have_no_growth():
    assert growth([sample(0.01)]) is None
    assert growth([sample(None, rss=0), sample(None, rss=0)]) is None


def test_the_table_puts_the_reference_first_and_says_who_is_missing():
    text = table(result(theirs=[sample(0.03)], ours=[sample(0.01)]))
    assert text.index("**ours**") < text.index("**theirs**")
    assert "| **theirs** | 3.00 | 3.00–3.00 | 30.00 | 500 | 1.00 | 2.00 | 1 | – | 0 | 0% |" in text
    assert "absent: not installed" in text


def test_what_was_not_measured_is_a_dash():
    assert "| **direct** | – | – | – | 500 | – | – | 1 | – | 0 | 0% |" in table(result(direct=[sample(None, p50=None, p99=None)]))


def test_the_summary_holds_one_line_of_ratios_a_scenario():
    lines = summary([result(ours=[sample(0.01)], theirs=[sample(0.03)]), result(ours=[sample(0.01)], third=[sample(0.005)])]).splitlines()
    assert lines[0] == "| ratio | theirs | third |"
    assert lines[2:] == ["| scene (against ours) | 3.00 | – |", "| scene (against ours) | – | 0.50 |"]


def test_the_json_form_holds_the_single_samples():
    written = json.loads(json.dumps(as_json([result(ours=[sample(0.01), sample(0.02)])], {"cores": 2})))
    assert written["machine"] == {"cores": 2}
    assert [each["cpu"] for each in written["results"][0]["samples"]["ours"]] == [0.01, 0.02]
    assert written["results"][0]["skipped"] == {"absent": "not installed"}
