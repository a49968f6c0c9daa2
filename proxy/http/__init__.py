"""HTTP between an application and a service: every request is balanced by itself, over pooled connections.

    exchange.py        one request and its response: route, balance, lease, forward, and every way in which that can end
    h1_downstream.py   a client's connection of HTTP/1: requests in, in order, responses out
    h2_downstream.py   a client's connection of HTTP/2, and its streams
    pool.py            what both pools have in common: which connections there are, and when one is retired
    h1_pool.py         the HTTP/1 connections of a service: leased, returned, dialled, retired
    h2_pool.py         its HTTP/2 connections: shared by many exchanges, dialled where streams run out
    h1_upstream.py     a pooled connection of HTTP/1 to an endpoint
    h2_upstream.py     a pooled connection of HTTP/2, and its streams
    h2_output.py       what such a connection sends, once a turn of the loop
    headers.py         what is removed, rewritten and added on the way, ready to send
    replies.py         the answers that are ours: status, body and flags as Envoy gives them
    deadlines.py       requests that must be answered within a time
    access_log.py      a line for each exchange

The exchange knows no wire format: heads, data and ends come from ``proxy.wire``, and each side renders its own.
"""
