"""edge. `routes.yaml` and the environment → a checked configuration.

All problems are reported at once, each with file, line, column, path and a remedy. The
line and column of every value are kept, so that later checks can report them too.

`load` is the way from the file to `Settings`; `yaml_reader` makes a tree of values of
the file's text, `scalars` and `environment` are what a single value means.
"""

from __future__ import annotations

from gateway.settings.load import Settings, load
from gateway.settings.problems import ConfigError, Problem

__all__ = ["ConfigError", "Problem", "Settings", "load"]
