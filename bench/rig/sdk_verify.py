"""The unmodified SDK, measured: a line with tokens in, then `go` for each round.

Started by `bench.scripts.verify`. It imports nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from supertokens_python import InputAppInfo, SupertokensConfig, init
from supertokens_python.recipe import session
from supertokens_python.recipe.session.asyncio import (
    get_session_without_request_response,
)


async def _measure(tokens: list[str]) -> float:
    begun = time.process_time()
    for token in tokens:
        await get_session_without_request_response(token, anti_csrf_check=False)
    return (time.process_time() - begun) / len(tokens) * 1e6


def main() -> None:
    url, origin = sys.argv[1:]
    init(
        app_info=InputAppInfo(
            app_name="bench", api_domain=origin, website_domain=origin
        ),
        supertokens_config=SupertokensConfig(url),
        framework="fastapi",
        mode="asgi",
        recipe_list=[session.init()],
        telemetry=False,
    )
    tokens = json.loads(sys.stdin.readline())
    with asyncio.Runner() as runner:
        runner.run(_measure(tokens[:1]))  # fetches the keys
        print("ready", flush=True)
        for _ in sys.stdin:
            print(runner.run(_measure(tokens)), flush=True)


if __name__ == "__main__":
    main()
