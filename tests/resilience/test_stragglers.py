"""A rank is slow when its own work takes longer than that of the others, step after step."""

from __future__ import annotations

from megatrain.resilience.stragglers import Straggler, Stragglers


def test_who_is_slow() -> None:
    seen = Stragglers(every=3, ratio=1.5, least_s=0.01)
    assert seen.add([1.0, 1.0, 2.0, 1.0]) == seen.add([1.0, 9.0, 2.0, 1.0]) == ()
    assert seen.add([1.0, 1.0, 2.0, 1.1]) == (Straggler(2, 2.0, 2.0),), "once is no habit"
    assert seen.add([1.0, 1.0]) == (), "it begins anew"
    assert [one.rank for one in seen.slow] == [2], "until it is judged again"
    assert seen.add([1.0, 1.0]) == seen.add([1.0, 1.0]) == seen.slow == ()


def test_who_waits_least() -> None:
    """The steps that have no figure, the first after a start, do not count for it."""
    seen = Stragglers(every=3, ratio=1.5, least_s=0.01)
    assert seen.add([0.0, 0.0, 0.0]) == seen.add([1.0, 2.0, 1.0], [1.0, 0.25, 1.5]) == ()
    (one,) = seen.add([1.0, 2.0, 1.0], [1.0, 0.75, 1.5])
    assert (one.rank, one.comm_wait_s, one.others_comm_wait_s) == (1, 0.5, 1.0)


def test_what_is_too_little_to_matter() -> None:
    seen = Stragglers(every=1, ratio=1.5, least_s=0.01)
    assert seen.add([0.001, 0.009]) == ()
    assert seen.add([0.1, 0.14]) == ()
    assert [one.rank for one in seen.add([0.1, 0.4, 0.1, 0.3])] == [1, 3]
    assert [one.rank for one in seen.add([0.1, 0.2])] == [1], "of two the faster is the measure"
    assert Stragglers(every=0, ratio=1.5, least_s=0).add([1.0, 9.0]) == ()
    assert Stragglers(every=1, ratio=1.5, least_s=0).add([9.0]) == ()
