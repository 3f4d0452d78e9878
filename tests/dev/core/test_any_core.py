"""Which tests run against a core that isn't the embedded one, and which are skipped."""

from __future__ import annotations

import any_core
import pytest
from aiohttp import ClientSession, web
from dev.core.core_client import CoreClient

from gateway.dev.listening import listening

_TEXT = "Cannot use feature: multi_tenancy, because the license key is missing"


async def test_a_paid_feature_skips_the_test(http: ClientSession) -> None:
    """An answer of 402 skips the test, and the core's sentence is the reason."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=402, text=f"{_TEXT}\n")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with listening("paid", app, 0) as port:
        client = CoreClient(http, f"http://127.0.0.1:{port}")
        with pytest.raises(pytest.skip.Exception, match=_TEXT):
            await client.call("PUT", "/recipe/multitenancy/tenant/v2", {})


@pytest.mark.parametrize("status", [400, 402, 500])
def test_the_sdk_names_the_status(status: int) -> None:
    """The SDK's exception skips the test only if the core has answered 402."""
    error = Exception(
        "SuperTokens core threw an error for a PUT request to path: /x with status"
        f" code: {status} and message: {_TEXT}\n"
    )
    if status == 402:
        with pytest.raises(pytest.skip.Exception, match=_TEXT):
            any_core.skip_if_sdk_met_paid(error)
    else:
        any_core.skip_if_sdk_met_paid(error)


@pytest.mark.embedded
def test_strictness_is_only_for_the_embedded_core() -> None:
    """A test marked `embedded` doesn't run if there is an external core."""
    assert any_core.URI is None
