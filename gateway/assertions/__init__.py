"""edge. Assertions: signed statements to a service about whose request it gets.

A service that checks them (docs/signed-identity.md) trusts neither the network nor
whoever else can reach it. `keys` (PURE) has the keys and their public set, `key_files`
reads and makes their files, `signing` writes the assertions and adds them to requests.
"""

from gateway.assertions.key_files import (
    BadAssertionKeys,
    check,
    generate,
    load,
)
from gateway.assertions.keys import AssertionKey, BadAssertionKey, key_set
from gateway.assertions.signing import Assertions

__all__ = [
    "AssertionKey",
    "Assertions",
    "BadAssertionKey",
    "BadAssertionKeys",
    "check",
    "generate",
    "key_set",
    "load",
]
