"""PURE. HTTP/1.1 on the wire: heads and chunked bodies, bytes in, values out.

`lines` has what a line of a head is, `request_head` and `reply_head` what the lines of
one head say together, `chunks` takes chunked bodies apart. Nothing here knows a route,
a session or a socket.
"""
