"""edge. The admin listener: operators look into the gateway, and act on it.

`guard` decides which requests are answered, `requests` reads their bodies, `views` has
what is shown of a configuration, `tokens` the token file, `server` the HTTP. What is
behind it is an `AdminBackend`: the hub (`process.hub_admin`).
"""
