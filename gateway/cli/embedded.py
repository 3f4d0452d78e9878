"""edge. A warning for recipes that the embedded development core doesn't serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from gateway.config import SuperTokensConfig

_TIMEOUT_S: Final = 1.0
"""How long the core may take to say what it is. It is on this machine."""


def warn_of_embedded_core(
    settings: SuperTokensConfig, warn: Callable[[str], None]
) -> None:
    """Warn if a recipe of the file needs a real core and has the embedded one.

    The core is asked only if there is such a recipe. One that doesn't answer is taken
    for a real one. The recipes of a `config_module` aren't known here.
    """
    from gateway.supertokens.recipes import NEED_REAL_CORE

    recipes = [name for name in NEED_REAL_CORE if name in settings.recipes]
    uri = settings.connection_uri.split(";")[0].strip()
    if not recipes or settings.config_module is not None or not _is_embedded(uri):
        return
    warn(
        f"these recipes need a real SuperTokens core, and {uri} is the embedded"
        f" development core: {', '.join(recipes)}"
    )


def _is_embedded(uri: str) -> bool:
    """Return whether the core at *uri* says that it is the embedded one."""
    import http.client  # a hundredth of a second, which few starts need

    from gateway.dev.mark import EMBEDDED_CORE

    url = urlsplit(uri)
    if url.scheme != "http" or url.hostname is None:  # it has no TLS
        return False
    connection = http.client.HTTPConnection(
        url.hostname, url.port or 80, timeout=_TIMEOUT_S
    )
    try:
        connection.request("GET", f"{url.path.rstrip('/')}/hello")
        return connection.getresponse().getheader("Server") == EMBEDDED_CORE
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
