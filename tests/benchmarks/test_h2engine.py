from benchmarks.h2engine import main, ours, reads, theirs


def test_both_answer_every_request():
    for unique in (False, True):
        wire = reads(40, unique)
        assert ours(wire) == theirs(wire) == 40


def test_it_tells_both_costs_and_the_ratio(capsys):
    main(40, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["repeating", "unique"]
    assert all("us a request" in line and "ratio" in line for line in lines)
