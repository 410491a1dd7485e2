"""When a soak fails: the rules on samples made by hand. Nothing is started."""

from __future__ import annotations

from collections.abc import Callable

from loadtests.growth import GAUGES, MIB, ProcessSample, SoakSample, first_and_last, growth, sum_gauges, unrest

NO_GAUGES = dict.fromkeys(GAUGES, 0)
PID = 7


def flat(_: int) -> int:
    return 0


def course(
    rss_mib: Callable[[int], float] = lambda i: 50,
    descriptors: Callable[[int], int] = flat,
    **gauges: Callable[[int], int],
) -> list[SoakSample]:
    """Thirty samples, one a second, each value a function of its number."""
    return [
        SoakSample(
            at_s=i,
            processes={PID: ProcessSample(int(rss_mib(i) * MIB), 0, 20 + descriptors(i))},
            gauges={**NO_GAUGES, **{name: value(i) for name, value in gauges.items()}},
        )
        for i in range(30)
    ]


def test_nothing_grew_when_all_is_level_or_falls() -> None:
    assert growth(course()) == []
    assert (
        growth(course(rss_mib=lambda i: 80 - i, descriptors=lambda i: 50 - i, upstream_cx_active=lambda i: 60 - i))
        == []
    )


def test_the_warm_up_does_not_count() -> None:
    assert growth(course(rss_mib=lambda i: 10 if i < 6 else 50)) == []


def test_one_peak_does_not_count() -> None:
    assert growth(course(rss_mib=lambda i: 500 if i == 28 else 50, descriptors=lambda i: 900 * (i == 27))) == []


def test_memory_that_creeps_is_found() -> None:
    [complaint] = growth(course(rss_mib=lambda i: 50 + i / 3))
    assert complaint.startswith(f"RSS of process {PID} grew from ")
    assert complaint.endswith(" MiB)")


def test_descriptors_that_creep_are_found() -> None:
    [complaint] = growth(course(descriptors=lambda i: i * 2))
    assert complaint.startswith(f"descriptors of process {PID} grew from ")


def test_requests_and_connections_that_pile_up_are_found() -> None:
    complaints = growth(course(upstream_cx_active=lambda i: 2 * i, downstream_rq_active=lambda i: 3 * i))
    assert [complaint.split()[0] for complaint in complaints] == ["downstream_rq_active", "upstream_cx_active"]


def test_too_few_samples_prove_nothing() -> None:
    assert growth([]) == ["no samples"]
    assert growth(course()[:5]) == ["only 4 samples after the warm-up, at least 6 are needed"]


def test_a_worker_that_was_replaced_is_found() -> None:
    samples = course()
    samples[-1] = SoakSample(29, {8: ProcessSample(1, 1, 1)}, NO_GAUGES)
    assert growth(samples) == ["the proxy's processes changed"]


def test_medians_of_the_outer_thirds() -> None:
    assert first_and_last([1, 2, 9, 50, 60, 70, 5, 6, 7]) == (2, 6)
    assert first_and_last([4]) == (4, 4)


def rested(descriptors: int, **gauges: int) -> SoakSample:
    return SoakSample(99, {PID: ProcessSample(0, 0, descriptors)}, {**NO_GAUGES, **gauges})


def test_pooled_connections_may_stay_and_nothing_else() -> None:
    assert unrest(rested(20), rested(66, upstream_cx_active=30)) == []
    assert unrest(rested(20), rested(67, upstream_cx_active=30)) == [
        "67 descriptors after the load, 20 before it (allowed: 66)"
    ]
    assert unrest(rested(20), rested(20, downstream_cx_active=2)) == ["downstream_cx_active is 2 after the load"]


def test_gauges_are_summed_over_clusters_and_connection_managers() -> None:
    stats = """\
cluster.one.upstream_cx_active: 3
cluster.two.upstream_cx_active: 4
cluster.one.upstream_rq_active: 2
http.admin.downstream_cx_active: 1
http.ingress.downstream_cx_active: 5
listener.0.0.0.0_80.downstream_cx_active: 5
http.ingress.downstream_rq_time: P0(nan,1) P25(nan,2)
server.version: 1
nonsense
"""
    expected = {**NO_GAUGES, "upstream_cx_active": 7, "upstream_rq_active": 2, "downstream_cx_active": 5}
    assert sum_gauges(stats) == expected
