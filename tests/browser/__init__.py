"""The official frontends in a real Chromium, against a real `gateway serve`.

`python -m browser` runs it (`__main__`). `make test-browser` installs what it needs.
"""
