"""How long a service may take, and when a request is sent again."""

import dataclasses

import pytest
from compiled import retry_of, timeouts_of

from gateway.config import RetryConfig, TimeoutsConfig
from gateway.timeouts import Retry, Timeouts


def test_what_the_file_says_is_kept() -> None:
    """Each key of the file is in the compiled form, under the same name."""
    stated = TimeoutsConfig(connect=1, response=2, idle=3, total=4)
    assert dataclasses.asdict(Timeouts.of(stated)) == stated.model_dump()
    assert {field.name for field in dataclasses.fields(Retry)} >= {
        *RetryConfig.model_fields
    }


@pytest.mark.parametrize(
    ("response_s", "per_try_s", "result_s"),
    [(60, 2, 2), (2, 60, 2), (2, 2, 2)],
)
def test_a_try_never_takes_longer_than_the_response(
    response_s: float, per_try_s: float, result_s: float
) -> None:
    """`per_try` shortens `timeouts.response`, and nothing else."""
    before = timeouts_of(connect=1, response=response_s, idle=3, total=90)
    after = before.of_a_try(per_try_s)
    assert after == dataclasses.replace(before, response=result_s)


@pytest.mark.parametrize(
    ("on", "statuses"),
    [
        (["connect", "reset"], set()),
        (["connect", "502", "503"], {502, 503}),
        ([], set()),
    ],
)
def test_the_statuses_of_retry_on(on: list[str], statuses: set[int]) -> None:
    """Numbers in `retry.on` are statuses of replies."""
    assert retry_of(on=on).statuses == statuses
