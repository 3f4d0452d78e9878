"""PURE. Mistakes with the keys of `assertion`, seen with the rest of the file."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config import Config, Finding, Loc

_PLACE: Loc = ("gateway", "assertion", "jwks_path")


def jwks_path(settings: Config) -> str | None:
    """Return the path of the public keys; None: there are none."""
    assertion = settings.gateway.assertion
    return None if assertion is None else assertion.jwks_path


def own_path(settings: Config) -> Iterator[Finding]:
    """Yield a finding if the path of the keys is that of something else."""
    path, gateway = jwks_path(settings), settings.gateway
    auth = settings.supertokens.api_base_path
    if path is None:
        return
    if path == auth or path.startswith(f"{auth}/"):
        yield Finding(
            loc=_PLACE,
            message="this path is below supertokens.api_base_path, which decides first",
            hint="Choose a path outside of it",
            see=("supertokens", "api_base_path"),
        )
    if path in (gateway.user_path, gateway.access_path):
        yield Finding(
            loc=_PLACE,
            message="the gateway answers this path with what a session may see",
            hint="Choose another path",
            see=("gateway", "user_path"),
        )


def warnings(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each audience that nothing is signed for."""
    if settings.gateway.assertion is not None:
        return
    for name, service in settings.services.items():
        if service.assertion.audience is not None:
            yield Finding(
                loc=("services", name, "assertion", "audience"),
                message="nothing is signed for it: there is no gateway.assertion",
                hint="Add gateway.assertion with keys; gateway keygen makes one",
            )
