"""Whom do we trust, and who are we?

Certificates, names in them, trust anchors, ``ssl`` contexts, sessions and verdicts. Nothing here knows
Kuma, YAML, sockets or an event loop: bytes and values in, bytes and values out.
"""
