"""PURE. The keys below `aws`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.findings import Finding
from gateway.config.forms import Prefix
from gateway.config.models.base import Model


class AwsConfig(Model):
    """The gateway as a function of AWS Lambda (docs/aws.md); not for `serve`."""

    base_path: Prefix | None = None
    """The base path that a custom domain of API Gateway maps to the API.

    It is removed once from the beginning of paths, as whole segments. Other paths stay
    as they are.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if the base path is the root."""
        if self.base_path == "/":
            yield Finding(
                loc=("base_path",),
                message="the root isn't a base path",
                hint="Leave it out: the domain maps to the API itself",
            )
