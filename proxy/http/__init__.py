"""HTTP between an application and a service: every request is balanced by itself, over pooled connections.

    downstream.py   a client's connection: requests in, in order, responses out
    exchange.py     one request and its response: route, balance, lease, forward, and every way in which that can end
    pool.py         the connections of a service: leased, returned, dialled, retired
    upstream.py     a pooled connection to an endpoint
    headers.py      what is removed, rewritten and added on the way, as bytes ready to send
    replies.py      the answers that are ours: status, body and flags as Envoy gives them
    access_log.py   a line for each exchange

The exchange knows no wire format: heads, data and ends come from ``proxy.wire``, and each side renders its own.
"""
