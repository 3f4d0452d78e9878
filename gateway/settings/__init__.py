"""edge. `routes.yaml` and the environment → a checked configuration.

All problems are reported at once, each with file, line, column, path and a remedy. The
line and column of every value are kept, so that later checks can report them, too.

`load` turns the file into `Settings`. `yaml_reader` turns the file's text into a tree
of values; `scalars` and `environment` give the value of a single scalar.
"""

from __future__ import annotations

from gateway.settings.load import Settings, load
from gateway.settings.problems import ConfigError, Problem

__all__ = ["ConfigError", "Problem", "Settings", "load"]
