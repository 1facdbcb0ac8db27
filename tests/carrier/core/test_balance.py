"""Policies: shares by weight, keys that stay where they are, nothing that is down while something is up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from carrier.core.balance import MAX_POINTS, POLICIES, Balancer
from carrier.core.endpoint import Endpoint


class One(Endpoint):
    def __init__(self, name: str, weight: float = 1, active: int = 0, up: bool = True) -> None:
        super().__init__(name, "127.0.0.1", 1, weight)
        self.active, self.up = active, up


class Watching:
    """What a cluster does for its balancer."""

    def __init__(self, policy: str, endpoints: list[Endpoint]) -> None:
        self.balancer, self.endpoints = Balancer(policy, endpoints), endpoints
        for endpoint in endpoints:
            endpoint.watcher, endpoint.eager = self, policy == "least_sessions"

    def turned(self, endpoint: Endpoint) -> None:
        self.balancer.changed()

    def eased(self, endpoint: Endpoint) -> None:
        self.balancer.eased(endpoint)

    def choose(self) -> Endpoint:
        found = self.balancer.choose(self.endpoints)
        assert found is not None
        return found


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
    endpoints: list[Endpoint] = [One("a"), One("b"), One("c")]
    balancer = Watching("HashRing", endpoints).balancer
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


@pytest.mark.parametrize("weights", [[1, 1, 1], [5, 1, 1], [3, 2, 1], [2.5, 1, 0.5]])
def test_turns_are_those_of_nginx_whatever_the_weights(weights: list[float]) -> None:
    endpoints = [One(name, weight) for name, weight in zip("abc", weights, strict=True)]
    balancer = Balancer("round_robin", endpoints)
    owed, total, told, wanted = [0.0] * 3, sum(weights), "", ""
    for _ in range(60):
        owed = [o + w for o, w in zip(owed, weights, strict=True)]
        best = owed.index(max(owed))
        owed[best] -= total
        wanted += "abc"[best]
        chosen = balancer.choose(endpoints)
        assert chosen is not None
        told += chosen.name
    assert told == wanted


def test_turns_of_many_with_odd_weights_are_shares_without_bursts() -> None:
    endpoints = [One(f"e{n}", 1 + n / 7) for n in range(300)]
    balancer = Balancer("round_robin", endpoints)
    turns = [chosen.name for _ in range(60_000) if (chosen := balancer.choose(endpoints))]
    found, total = Counter(turns), sum(e.weight for e in endpoints)
    assert all(abs(found[e.name] - 60_000 * e.weight / total) <= 2 for e in endpoints)
    assert sum(a == b for a, b in pairwise(turns)) <= 3


def test_whoever_is_down_loses_her_turns_and_gets_them_back() -> None:
    endpoints: list[Endpoint] = [One("a"), One("b"), One("c")]
    stage = Watching("round_robin", endpoints)
    assert {stage.choose().name for _ in range(3)} == {"a", "b", "c"}
    endpoints[1].up = False
    assert Counter(stage.choose().name for _ in range(10)) == {"a": 5, "c": 5}
    endpoints[1].up = True
    assert Counter(stage.choose().name for _ in range(9)) == {"a": 3, "b": 3, "c": 3}


def test_a_turn_that_was_looked_at_is_nobody_elses() -> None:
    endpoints = [One("a"), One("b"), One("c")]
    balancer = Balancer("round_robin", endpoints)
    for name in "abcabc":
        assert [e.name for _ in range(3) if (e := balancer.peek(endpoints))] == [name] * 3
        assert (chosen := balancer.choose(endpoints)) is not None and chosen.name == name


def test_the_fewest_sessions_are_found_whatever_has_come_and_gone() -> None:
    endpoints: list[Endpoint] = [One(f"e{n}", random.choice((1, 2, 3))) for n in range(40)]
    stage = Watching("least_sessions", endpoints)
    live: list[Endpoint] = []
    for _ in range(20_000):
        if live and random.random() < 0.5:
            live.pop(random.randrange(len(live))).leave()
        else:
            chosen = stage.choose()
            assert (chosen.active + 1) / chosen.weight == min((e.active + 1) / e.weight for e in endpoints)
            chosen.enter()
            live.append(chosen)
    assert len(stage.balancer.heap) <= 4 * len(endpoints) + 17


@pytest.mark.parametrize("policy", ["round_robin", "least_sessions", "random", "sticky"])
def test_a_choice_among_a_thousand_looks_at_few_of_them(policy: str) -> None:
    looked = 0

    class Counting(Endpoint):
        @property
        def up(self) -> bool:
            nonlocal looked
            looked += 1
            return True

    endpoints: list[Endpoint] = [Counting(f"e{n}", "127.0.0.1", 1, 1) for n in range(1000)]
    stage = Watching(policy, endpoints)
    assert stage.balancer.choose(endpoints, "first") is not None
    looked = 0
    for n in range(1000):
        chosen = stage.balancer.choose(endpoints, f"key {n}")
        assert chosen is not None
        chosen.enter()
        chosen.leave()
    assert looked == 0 or (policy == "least_sessions" and looked == 1000)  # the heap is made anew, once in thousands
