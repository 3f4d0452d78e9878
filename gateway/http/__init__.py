"""PURE. HTTP/1.1 on the wire: heads and chunked bodies, bytes in, values out.

`lines` parses single lines of a head, `request_head` and `reply_head` combine the lines
of one head, `chunks` decodes chunked bodies. Nothing here knows a route, a session or a
socket.
"""
