"""The distribution of choices: shares, weights, and the start."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerproxy.extensions.load_balancers import least_request, round_robin
from workerproxy.extensions.load_balancers import random as random_choice


@dataclass(eq=False)
class Host:
    name: int
    weight: int = 1
    rq_active: int = 0


def hosts(*weights: int) -> list[Host]:
    return [Host(number, weight) for number, weight in enumerate(weights)]


def counts(balancer: Any, choices: int) -> list[int]:
    """How often each host is chosen, in the order of their names."""
    found = Counter(balancer.choose().name for _ in range(choices))
    return [found[name] for name in range(max(found) + 1)]


# round robin


def test_round_robin_takes_each_in_turn() -> None:
    balancer = round_robin.create(hosts(1, 1, 1), 0)
    assert [balancer.choose().name for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2000))
def test_round_robin_gives_every_host_its_weight_in_every_cycle(weights: list[int], start: int) -> None:
    balancer = round_robin.create(hosts(*weights), start)
    total = sum(weights) if len(set(weights)) > 1 else len(weights)
    share = weights if len(set(weights)) > 1 else [1] * len(weights)
    found = counts(balancer, 3 * total)
    found += [0] * (len(weights) - len(found))
    # A start within a cycle shifts it; over whole cycles nobody is off by more than one.
    assert all(abs(have - 3 * want) <= 1 for have, want in zip(found, share, strict=True))


def test_weighted_round_robin_spreads_the_heavy_one() -> None:
    balancer = round_robin.create(hosts(3, 1), 0)
    names = [balancer.choose().name for _ in range(8)]
    assert names.count(0) == 6
    assert "1, 1" not in str(names)


def test_workers_do_not_all_begin_with_the_first_host() -> None:
    firsts = {round_robin.create(hosts(1, 1, 1, 1)).choose().name for _ in range(200)}
    assert firsts == {0, 1, 2, 3}
    firsts = {round_robin.create(hosts(1, 2, 3)).choose().name for _ in range(200)}
    assert firsts == {0, 1, 2}


def test_weighted_round_robin_does_not_lose_precision_over_time() -> None:
    balancer = round_robin.create(hosts(1, 7), 0)
    counts(balancer, 200_000)
    assert counts(balancer, 800) == [100, 700]


# random


def test_random_is_even_with_equal_weights() -> None:
    found = counts(random_choice.create(hosts(5, 5, 5), random.Random(1)), 30_000)
    assert all(abs(count - 10_000) < 500 for count in found)


def test_random_counts_weights() -> None:
    found = counts(random_choice.create(hosts(1, 2, 7), random.Random(1)), 30_000)
    assert all(abs(count - want) < 500 for count, want in zip(found, [3000, 6000, 21_000], strict=True))


# least request


def test_least_request_takes_the_less_busy_of_two() -> None:
    members = hosts(1, 1)
    members[0].rq_active = 5
    found = counts(least_request.create(members, random.Random(1)), 10_000)
    # The busy one is chosen only when both choices fall on it.
    assert abs(found[0] - 2500) < 300


def test_least_request_is_even_when_nobody_is_busy() -> None:
    found = counts(least_request.create(hosts(1, 1, 1), random.Random(1)), 30_000)
    assert all(abs(count - 10_000) < 500 for count in found)


def test_least_request_with_weights_weighs_requests_in_flight() -> None:
    members = hosts(2, 1)
    members[0].rq_active = 3  # 2 / 4 against 1 / 1
    found = counts(least_request.create(members, random.Random(1)), 30_000)
    assert abs(found[0] - 10_000) < 500


def test_least_request_keeps_requests_in_flight_close_together() -> None:
    members = hosts(*[1] * 10)
    balancer = least_request.create(members, random.Random(1))
    for _ in range(1000):
        balancer.choose().rq_active += 1
    loads = [host.rq_active for host in members]
    assert max(loads) - min(loads) <= 6


@pytest.mark.parametrize("module", [round_robin, random_choice, least_request])
@pytest.mark.parametrize("weights", [(1,), (4,)])
def test_one_host_is_always_chosen(module: Any, weights: tuple[int, ...]) -> None:
    balancer = module.create(hosts(*weights))
    assert counts(balancer, 5) == [5]


@pytest.mark.parametrize("module", [round_robin, random_choice, least_request])
def test_a_host_set_that_changes_afterwards_changes_no_balancer(module: Any) -> None:
    members = hosts(1, 1)
    balancer = module.create(members)
    members.clear()
    assert {balancer.choose().name for _ in range(200)} == {0, 1}
