"""The buckets of many keys: each by itself, and in bounded memory."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from gateway.rate_limits.buckets import MAX_KEYS, Buckets
from gateway.rate_limits.gcra import Gcra

S = 1_000_000_000
LIMIT = Gcra(6 * S, 5)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10 * S)), max_size=80),
    st.integers(1, 3),
)
def test_keys_dont_affect_each_other(
    requests: list[tuple[str, int]], cost: int
) -> None:
    """Each key gets what it would get alone, whatever the order of the keys."""
    together: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    buckets, now = Buckets(), 0
    times = []
    for key, gap in requests:
        now += gap
        times.append((key, now))
        together[key].append(buckets.take(key, LIMIT, now, cost).granted)
    for name, seen in together.items():
        alone = Buckets()
        own = [at for key, at in times if key == name]
        assert [alone.take(name, LIMIT, at, cost).granted for at in own] == seen


def test_a_flood_of_new_keys_doesnt_free_a_used_up_one() -> None:
    """The keys that go first are those that would be full first."""
    buckets = Buckets(100)
    while buckets.take("attacker", LIMIT, 0).granted:
        pass
    for number in range(10_000):
        assert buckets.take(f"other {number}", LIMIT, number).granted == 1
        assert len(buckets) <= 100
    assert buckets.take("attacker", LIMIT, 10_000).granted == 0


def test_full_buckets_are_forgotten() -> None:
    """What has come back needs no memory: new keys replace it."""
    buckets = Buckets(1000)
    for number in range(100_000):
        buckets.take(f"key {number}", Gcra(S, 5), number * S)
        assert len(buckets) <= 3


def test_a_key_in_use_is_kept_when_its_first_time_is_over() -> None:
    """A bucket that was used again isn't taken for a full one."""
    buckets = Buckets(1000)
    for now in range(0, 10 * S, S):
        buckets.take("busy", Gcra(2 * S, 20), now)
        buckets.take(f"once {now}", Gcra(1, 1), now)
    taken = buckets.take("busy", Gcra(2 * S, 20), 10 * S, 1, 99)
    assert taken.granted == 15


def test_memory_is_bounded() -> None:
    """A full table takes about as much as `MAX_KEYS` says: 400 bytes a key."""
    keys = [f"{number:032x}" for number in range(20_000)]
    random.Random(1).shuffle(keys)
    buckets = Buckets(5000)
    tracemalloc.start()
    try:
        for now, key in enumerate(keys):
            # A copy, as each request makes its own key.
            buckets.take(key[:16] + key[16:], LIMIT, now)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(buckets) == 5000
    assert size / 5000 < 400
    assert MAX_KEYS * 400 == 20_000_000
