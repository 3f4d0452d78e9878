"""edge. Makes what explains requests, of the SDK and the route table of a file."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from gateway.cli.terminal import fail

if TYPE_CHECKING:
    from gateway.explain.answering import Explainer
    from gateway.settings import Settings


@contextlib.asynccontextmanager
async def explaining(settings: Settings) -> AsyncIterator[Explainer]:
    """Yield what explains requests as they would be served; else exit with 1."""
    from gateway import app, supertokens
    from gateway.explain.answering import Explainer
    from gateway.seams.library import LibraryChanged
    from gateway.supertokens import session_check
    from gateway.supertokens.api import Auth

    config = settings.config
    try:
        sdk = supertokens.start(config.supertokens)
    except (supertokens.RecipeError, LibraryChanged) as error:
        fail(str(error))
    try:
        reader, _ = app.readers(settings.table, config.gateway)
        yield Explainer(
            config,
            settings.table,
            auth=Auth(sdk),
            rules=session_check.rules(sdk),
            reader=reader,
            forwarded=app.forwarded_cache(config.gateway),
            traces=app.traces(config),
            sdk_headers=sdk.cors_headers(),
        )
    finally:
        await sdk.close()
