"""edge. Processes: sockets, signals, serving; the supervisor and its children.

`serve` runs a gateway in one process, as `gateway dev` does: SIGTERM, SIGINT and SIGHUP
stop accepting, let requests in flight finish within `gateway.drain_timeout`, and exit;
a second SIGTERM or SIGINT exits at once.

`gateway serve` starts a supervisor. It binds the sockets and forks workers and the hub.
`plan` makes its decisions, `supervisor` performs them, and `channel` is its end of a
child's control channel. `worker` and `hub` are the children; `pipe` is their end of the
channel. `messages` defines the messages of both ends.

Facts
- The supervisor forks after all imports. A worker shares that memory (with the SDK,
  16 MB instead of 57 MB are its own) and is ready in a tenth of the time. Therefore the
  supervisor must have no event loop and no thread when it forks.
- All sockets stay open in the supervisor, and every worker holds all of them. When a
  worker dies, another one accepts from its socket, so the connections queued there are
  not lost.
- A worker accepts when the supervisor sends `accept`, after it has sent all sign-outs.
- A worker ignores the signals that a terminal or a service manager sends to all
  processes of a group; the supervisor handles them. A worker drains when its channel
  ends, because that means that the supervisor has exited.
"""
