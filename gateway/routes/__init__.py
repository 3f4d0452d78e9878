"""PURE. The route table: which route a request takes, in one stated order.

`build` compiles it from the configuration at load; it never changes. `match` looks up
each segment of the path once, whatever the number of routes (`table`). `lint` finds
configurations that can be served but shouldn't be.

The order
=========
Of all routes that match a request's host and path, the first in this order decides. No
other route is tried after it:

1. **Host.** A host given in full, then the longest `*.` wildcard, then no host.
2. **Exact** paths.
3. **The longest path**, segment by segment from the left: at the first segment where
   two routes differ, a literal segment comes before a `{name}`, a name before a
   regex, a regex before a prefix that ends there. (`/a/{x}/c` is before `/a/{x}` as a
   prefix of it would be, and `/a/b` is before `/a/{x}`.) A regex belongs to
   the node after the literal segments that all its matches begin with; of several, the
   one with the longer literal beginning comes first, then the one earlier in the file.
4. **Methods.** Routes with the same host and path are one *place*. In it, routes that
   list the method come before the one that lists none. GET includes HEAD, unless
   another route of the place lists HEAD.
5. **Order in the file**, for routes that are still equal.

If the deciding place has no route for the method, the answer is 405, even if a shorter
path would allow it: a public `/` must not serve what a protected `/admin` refuses. A
route that no request can reach is an error, and so is one that leads to the core.
"""

from __future__ import annotations

from gateway.routes.build import compile  # noqa: A004 # read as routes.compile
from gateway.routes.describe import Row, rows
from gateway.routes.lint import unmet_requirements, warnings
from gateway.routes.remarks import Kind, Remark, remarks
from gateway.routes.route import (
    Conditional,
    Form,
    Matched,
    MethodNotAllowed,
    Mirror,
    NearMiss,
    NoRoute,
    Outcome,
    Rewrite,
    Route,
    Service,
)
from gateway.routes.table import RouteTable

__all__ = [
    "Conditional",
    "Form",
    "Kind",
    "Matched",
    "MethodNotAllowed",
    "Mirror",
    "NearMiss",
    "NoRoute",
    "Outcome",
    "Remark",
    "Rewrite",
    "Route",
    "RouteTable",
    "Row",
    "Service",
    "compile",
    "remarks",
    "rows",
    "unmet_requirements",
    "warnings",
]
