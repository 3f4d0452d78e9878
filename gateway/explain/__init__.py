"""edge. `gateway explain`: what the gateway would do with a request, and why.

`people` (pure) makes claims of a few words about a person, and `given` (pure) judges
them as the authenticator of sessions would. `answering` has the decision made by the
same `decide` as the proxy's. No service and no core is called.
"""
