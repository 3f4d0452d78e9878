"""The measurements without rivals: one file for each make target."""
