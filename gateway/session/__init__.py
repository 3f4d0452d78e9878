"""edge. Sessions: from a request's credentials to a verdict on its session.

`authenticator` has the procedure, `core_calls` asks the core, and `failures` logs what
was unexpected. All the other files are pure.
"""
