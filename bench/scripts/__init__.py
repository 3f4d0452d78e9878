"""Measurements without rivals; a file per make target."""
