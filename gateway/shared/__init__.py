"""PURE. What gateways with the same core tell each other over a store.

`entries` is the format, `ledger` what is to be sent and what is news, `store` the Redis
server, and `sharing` the work that never ends. Only the hub of a gateway uses it.
"""
