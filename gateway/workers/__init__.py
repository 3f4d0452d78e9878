"""edge. Several processes that serve one address, and the one that looks after them.

The supervisor binds the sockets and forks the workers. It serves nothing itself, so it
can do what must not fail: restart, reload, drain, and pass sign-outs on.

`plan` decides what it does, `supervisor` does it with `channel`, its end of a child's
channel. `worker` and `hub` are the children, with `pipe` as their end.

Facts
- It forks when everything is imported: a worker shares that memory (with the SDK 16
  instead of 57 MB are its own) and is ready in a tenth of the time. So no event loop
  and no thread may live in the supervisor when it forks.
- All sockets stay open here, and every worker holds all of them. The queue of one is
  lost to nobody when its worker ends: another one accepts from it meanwhile.
- A worker accepts when it is told to, which is after it was told of all sign-outs.
- A worker ignores the signals that a terminal or a service manager sends to all
  processes of a group: the supervisor says what they mean. It drains when its channel
  ends, because then there is no supervisor any more.
"""

from gateway.workers.cpus import usable_cpus
from gateway.workers.supervisor import Supervisor, supervise

__all__ = ["Supervisor", "supervise", "usable_cpus"]
