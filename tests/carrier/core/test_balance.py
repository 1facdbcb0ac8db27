"""Policies: shares by weight, keys that stay where they are, nothing that is down while something is up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from carrier.core.balance import MAX_POINTS, POLICIES, Balancer


class One:
    def __init__(self, name: str, weight: float = 1, active: int = 0, up: bool = True) -> None:
        self.name = name
        self.weight = weight
        self.active = active
        self.up = up


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    state = random.getstate()
    random.seed(20261121)
    yield
    random.setstate(state)


def shares(policy: str, endpoints: list[One], rounds: int, keys: bool = False) -> dict[str, float]:
    balancer = Balancer(policy, endpoints)
    found: Counter[str] = Counter()
    for n in range(rounds):
        chosen = balancer.choose(endpoints, f"key-{n}" if keys else None)
        assert chosen is not None
        found[chosen.name] += 1
    return {name: count / rounds for name, count in found.items()}


WEIGHTED = [One("a", 3), One("b", 1), One("c", 1)]


@pytest.mark.parametrize("policy", ["random", "least_sessions", "HashRing", "sticky"])
def test_weights_are_shares(policy: str) -> None:
    if policy == "least_sessions":  # its measure is live sessions per weight: let them accumulate
        endpoints = [One("a", 3), One("b", 1), One("c", 1)]
        balancer = Balancer(policy, endpoints)
        for _ in range(5000):
            chosen = balancer.choose(endpoints)
            assert chosen is not None
            chosen.active += 1
        found = {e.name: e.active / 5000 for e in endpoints}
    else:
        found = shares(policy, WEIGHTED, 5000, keys=policy in ("HashRing", "sticky"))
    assert found["a"] == pytest.approx(0.6, abs=0.08)
    assert found["b"] == pytest.approx(0.2, abs=0.08)
    assert found["c"] == pytest.approx(0.2, abs=0.08)


def test_round_robin_is_exact_and_sends_no_bursts_to_the_heaviest() -> None:
    balancer = Balancer("round_robin", WEIGHTED)
    turn = [chosen.name for _ in range(10) if (chosen := balancer.choose(WEIGHTED))]
    assert Counter(turn) == {"a": 6, "b": 2, "c": 2}
    assert "aaa" not in "".join(turn)


def test_a_hash_ring_without_a_key_chooses_at_random_by_weight() -> None:
    assert shares("HashRing", WEIGHTED, 5000)["a"] == pytest.approx(0.6, abs=0.03)


def test_trivial_takes_the_first_and_none_takes_nothing() -> None:
    assert shares("Trivial", WEIGHTED, 10) == {"a": 1}
    assert Balancer("None", WEIGHTED).choose(WEIGHTED) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_no_endpoint_to_give_where_there_is_none(policy: str) -> None:
    assert Balancer(policy, []).choose([], "key") is None


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "None"])
def test_what_was_tried_is_not_chosen_again(policy: str) -> None:
    balancer = Balancer(policy, WEIGHTED)
    for _ in range(20):
        found = balancer.choose(WEIGHTED, "key", {"a", "b"})
        assert found is not None and found.name == "c"
    assert balancer.choose(WEIGHTED, "key", {"a", "b", "c"}) is None


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "None"])
def test_an_endpoint_that_is_down_or_weighs_nothing_is_chosen_only_when_nothing_else_is_left(policy: str) -> None:
    endpoints = [One("down", up=False), One("drained", 0), One("good")]
    balancer = Balancer(policy, endpoints)
    assert {e.name for n in range(50) if (e := balancer.choose(endpoints, str(n)))} == {"good"}
    assert balancer.choose(endpoints, "key", {"good"}) is not None


def test_one_key_always_goes_to_one_endpoint_also_on_another_ring() -> None:
    first, second = Balancer("HashRing", WEIGHTED), Balancer("ConsistentHash", list(reversed(WEIGHTED)))
    for n in range(200):
        a, b = first.choose(WEIGHTED, str(n)), second.choose(list(reversed(WEIGHTED)), str(n))
        assert a is b is not None


def test_a_removed_endpoint_moves_only_its_own_keys_and_they_spread() -> None:
    all_of_them = [One(f"e{n}") for n in range(10)]
    left = [e for e in all_of_them if e.name != "e3"]
    before, after = Balancer("HashRing", all_of_them), Balancer("HashRing", left)
    heirs: Counter[str] = Counter()
    for n in range(5000):
        old, new = before.choose(all_of_them, str(n)), after.choose(left, str(n))
        assert old is not None and new is not None
        if old.name == "e3":
            heirs[new.name] += 1
        else:
            assert new is old
    assert len(heirs) == 9
    assert 300 < heirs.total() < 700


def test_an_endpoint_that_is_down_gives_its_keys_away_and_gets_the_same_ones_back() -> None:
    endpoints = [One("a"), One("b"), One("c")]
    balancer = Balancer("HashRing", endpoints)
    before = [balancer.choose(endpoints, str(n)) for n in range(500)]
    endpoints[1].up = False
    meanwhile = [balancer.choose(endpoints, str(n)) for n in range(500)]
    assert all(m is b or b is endpoints[1] for b, m in zip(before, meanwhile, strict=True))
    assert endpoints[1] not in meanwhile
    endpoints[1].up = True
    assert [balancer.choose(endpoints, str(n)) for n in range(500)] == before


def test_the_ring_of_huge_weights_is_bounded_and_keeps_their_proportion() -> None:
    endpoints = [One("a", 3e8), One("b", 1e8), *(One(f"z{n}", 0) for n in range(10))]
    balancer = Balancer("HashRing", endpoints)
    assert len(balancer.points) <= MAX_POINTS + len(endpoints) + 1
    found = Counter(e.name for n in range(2000) if (e := balancer.choose(endpoints, str(n))))
    assert found["a"] / 2000 == pytest.approx(0.75, abs=0.05)
    assert set(found) == {"a", "b"}


def test_least_sessions_prefers_the_idle_and_spreads_equals() -> None:
    endpoints = [One("a", active=5), One("b", active=1), One("c", active=1)]
    balancer = Balancer("least_sessions", endpoints)
    assert {e.name for _ in range(50) if (e := balancer.choose(endpoints))} == {"b", "c"}
