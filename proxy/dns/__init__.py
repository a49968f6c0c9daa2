"""The DNS server: our own names from memory, everything else from the machine's resolvers.

    message.py   the wire format of questions and of packed answers: bytes in, bytes out
    records.py   the mesh's names and their addresses, and the answers made of them
    cache.py     the resolvers' answers, for as long as their TTLs say
    forward.py   a question that is not ours: the hosts file, the cache, the resolvers in turn
    server.py    the sockets: UDP and TCP on one port

An answer is *packed* once: what follows the question, its names pointing back into the question. Each reply is then
the client's own id and question with that body behind it, so that one answer serves every client, whatever letter
case it asked in, and a name of ours costs a dictionary look-up.
"""
