"""edge. Seams: all that is replaced or read inside libraries, checked at start.

`aiohttp` has those of aiohttp and aiohttp-cors, `supertokens` those of the SDK and of
httpx under it. `library` is the check. No other file uses a name that a library doesn't
document.
"""
