"""Extensions: whoever else knows the endpoints of a service (``spec.extension`` of a MeshExternalService).

api       what an extension is, and what it is given: all that its author has to read
registry  which are installed (entry points of the group ``koguma.extension``), and is a config right?
host      runs them, each type in a thread with an event loop of its own, and keeps what they supply
srv       endpoints from a DNS SRV record
http      endpoints from JSON over HTTP
"""
