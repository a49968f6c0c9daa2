"""How do bytes flow?

Sockets, TLS streams, balancing, health, the admin interface and the command line. The packages import one
way only: ``proxy -> config -> tls``.
"""
