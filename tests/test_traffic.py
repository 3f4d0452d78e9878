"""`make traffic`: what its targets do, and the verdicts on its figures."""

from __future__ import annotations

from collections import Counter

import pytest
from faults import until

from bench.rig.asked import CUT, LATE, WRONG, Asked, Load
from bench.rig.fault_targets import BODY, CHECK, half_open, targets
from bench.scripts.traffic import (
    NOISE_MS,
    Result,
    broken_promises,
    goals,
    is_best,
    table,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def result(failed: int = 0, p99_ms: float = 10.0) -> Result:
    return Result(
        requests=100, failed=failed, p50_ms=1.0, p99_ms=p99_ms, max_ms=99.0, share=0.25
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (result(), result(), (True, True)),
        (result(failed=1), result(failed=1), (True, True)),
        (result(failed=1), result(), (False, True)),
        (result(p99_ms=10 + NOISE_MS), result(), (True, True)),
        (result(p99_ms=11 + NOISE_MS), result(), (True, False)),
    ],
)
def test_the_gateway_is_best_if_nobody_is_better(
    ours: Result, theirs: Result, expected: tuple[bool, bool]
) -> None:
    """A p99 is lower if it is so by more than the noise."""
    results = {"gateway": ours, "nginx": theirs}
    assert is_best(results) == expected
    fewest, lowest = (("MISSED", "reached")[one] for one in expected)
    assert goals({"slow": results}) == [
        f"slow: fewest failed requests {fewest}, lowest p99 {lowest}"
    ]


def test_a_promise_is_broken_by_the_gateway_alone() -> None:
    """A reply that breaks off in the middle is no broken promise."""
    bad, good = result(failed=1), result()
    results = {
        "slow": {"gateway": good, "nginx": bad},
        "503": {"gateway": bad, "nginx": good},
        "cut": {"gateway": bad},
    }
    assert broken_promises(results) == ["503"]
    assert broken_promises({"503": {"nginx": bad}}) == []


def test_the_table_has_a_row_for_each_fault_and_proxy() -> None:
    """A share that can't be known is a question mark."""
    asked = Asked(ms=[1.0, 3.0], outcomes=Counter({"200": 1, "503": 1}))
    rows = table({"refused": {"gateway": Result.of(asked, None), "nginx": result()}})
    assert rows.rows == [
        ("refused", "gateway", "2", "1", "1", "3", "3", "?", "1 503"),
        ("", "nginx", "100", "0", "1", "10", "99", "25.0%", ""),
    ]


def test_what_a_client_counts_as_a_failure() -> None:
    """5xx, a broken reply, one of somebody else, and one that doesn't come in time."""
    asked = Asked(outcomes=Counter([*("200", "404", "503", "502"), CUT, LATE, WRONG]))
    assert asked.failed == 5


def test_connections_without_an_answer_are_found_in_the_systems_table() -> None:
    """Those to the port in state SYN-SENT; the text is that of /proc/net/tcp."""
    table = (
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 0100007F:1F90 0100007F:2328 02 00000000:00000000\n"
        "   1: 0100007F:1F91 0100007F:2328 01 00000000:00000000\n"
        "   2: 0100007F:1F92 0100007F:2329 02 00000000:00000000\n"
        "   3: 0100007F:2328 0100007F:1F90 02 00000000:00000000\n"
    )
    assert [*half_open(table, 0x2328)] == [0x1F90]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("none", "200"),
        ("slow", "200"),
        ("503", "503"),
        ("cut", CUT),
        ("refused", CUT),
        ("flapping", CUT),
        ("silent", LATE),
        ("stalled", LATE),
        ("black hole", LATE),
    ],
)
async def test_a_target_is_out_of_order_as_it_is_told(fault: str, outcome: str) -> None:
    """It was in order before, and the two others still are. Checks don't count."""
    patience_s = 30.0 if outcome != LATE else 0.5
    async with targets(3) as three:
        for target in three:
            load = Load(target.port, body=BODY, patience_s=30.0)
            assert (await load.run(100, 0.02, [GET])).outcomes == {"200": 2}
            load.close()
        bad, good = three[-1], three[0]
        await bad.begin(fault)
        load = Load(bad.port, body=BODY, patience_s=patience_s)
        asked = await load.run(100, 0.01, [GET])
        load.close()
        assert asked.outcomes == {outcome: 1}
        if fault == "black hole":
            await until(lambda: bad.reached > 0)
        elif outcome != CUT or fault == "cut":
            assert bad.reached == 1
        load = Load(good.port, body=BODY, patience_s=30.0)
        check = GET.replace(b"/ ", CHECK.encode() + b" ", 1)
        assert (await load.run(100, 0.01, [check])).outcomes == {"200": 1}
        load.close()
        assert good.reached == 2
