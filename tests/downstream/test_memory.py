"""Who is cut when clients hold too much memory: the newest without a session first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.downstream.memory import (
    CONNECTION_BYTES,
    ENOUGH,
    FULL,
    SPARED_BYTES,
    Held,
    Ledger,
    Standing,
)

BUDGET = 1_000_000
BIG = 100_000
UNVERIFIED, VERIFIED, SERVED = Standing.UNVERIFIED, Standing.VERIFIED, Standing.SERVED


def ledger(used: int, share: float = 1.0) -> Ledger:
    made = Ledger(BUDGET, share)
    made.used = used
    return made


def test_new_connections_are_closed_first() -> None:
    """At 90 % no connection is admitted, and above it some are cut."""
    at = int(BUDGET * FULL)
    assert ledger(at - CONNECTION_BYTES).admits
    assert not ledger(at - CONNECTION_BYTES + 1).admits
    assert not ledger(at).is_full
    assert ledger(at + 1).is_full


def test_the_newest_without_a_session_go_first() -> None:
    """Then those whose session was verified earlier; never a request with one."""
    newest_first = [
        Held(BIG, SERVED, None),
        Held(BIG, VERIFIED, None),
        Held(BIG, UNVERIFIED, None),
        Held(BIG, VERIFIED, None),
        Held(BIG, UNVERIFIED, None),
    ]
    used = int(BUDGET * ENOUGH)
    assert ledger(used + 1).to_cut(newest_first) == [2]
    assert ledger(used + 2 * BIG).to_cut(newest_first) == [2, 4]
    assert ledger(used + 3 * BIG).to_cut(newest_first) == [2, 4, 1]
    assert ledger(used + 9 * BIG).to_cut(newest_first) == [2, 4, 1, 3]


def test_small_ones_are_spared() -> None:
    """Thousands of idle clients aren't cut for one that holds much."""
    small = [Held(SPARED_BYTES - 1, UNVERIFIED, None)] * 100
    assert ledger(BUDGET).to_cut([*small, Held(BIG, UNVERIFIED, None)]) == [100]


def test_a_client_above_its_share_goes_first() -> None:
    """Even with a session, but for the requests that are being served."""
    greedy = [Held(BIG, VERIFIED, "greedy")] * 3
    newest_first = [
        Held(BIG, UNVERIFIED, "other"),
        Held(BIG, SERVED, "greedy"),
        *greedy,
        Held(4 * BIG, UNVERIFIED, None),
    ]
    used = int(BUDGET * ENOUGH) + 2 * BIG
    assert ledger(used, share=0.3).to_cut(newest_first) == [2, 3]
    assert ledger(used, share=0.5).to_cut(newest_first) == [0, 5]


@given(
    st.lists(
        st.builds(
            Held,
            st.integers(CONNECTION_BYTES, BIG),
            st.sampled_from([UNVERIFIED, VERIFIED, SERVED]),
            st.sampled_from([None, "a", "b"]),
        ),
        max_size=50,
    ),
    st.floats(0.01, 1.0),
    st.integers(1, 60 * BIG),
)
def test_enough_is_cut_and_no_more(
    newest_first: list[Held], share: float, budget: int
) -> None:
    """It is enough, or nothing is left to cut; the last one cut was needed."""
    made = Ledger(budget, share)
    made.used = used = sum(held.size for held in newest_first)
    chosen = made.to_cut(newest_first)
    assert len(set(chosen)) == len(chosen)
    cut = [newest_first[index] for index in chosen]
    assert all(held.standing is not SERVED for held in cut)
    assert all(held.size >= SPARED_BYTES for held in cut)
    enough = int(budget * ENOUGH)
    left = used - sum(held.size for held in cut)
    remaining = [h for i, h in enumerate(newest_first) if i not in chosen]
    assert left <= enough or all(
        held.standing is SERVED or held.size < SPARED_BYTES for held in remaining
    )
    assert not cut or left + cut[-1].size > enough
