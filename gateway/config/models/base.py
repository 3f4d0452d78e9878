"""PURE. What all models of `routes.yaml` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from gateway.config.findings import Finding, reject


class Model(BaseModel):
    """Base of all models: unknown keys are errors, values are frozen and not shown."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        # `api_key: 12345` is valid: text that happens to look like a number.
        coerce_numbers_to_str=True,
    )

    def conflicts(self) -> Iterator[Finding]:
        """Yield findings about keys that contradict each other.

        Their places are relative to the model.
        """
        return iter(())

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        reject(self.conflicts())
        return self

    def patched(self, patch: Model) -> Self:
        """Return a copy with the values that *patch* sets to other than None."""
        return self.model_copy(update=patch.model_dump(exclude_none=True))

    def _keys_set(self, *names: str) -> list[str]:
        """Return those of *names* that the file sets."""
        return [name for name in names if name in self.model_fields_set]
