"""The admin interface: what Envoy answers, at the same paths, with the same stat names; and a page for people.

    server.py   connections: HTTP/1.1 over h11, bounded in every direction
    routes.py   which path is which view, who may ask, and the help text
    http.py     the request and the answer, as values
    context.py  what the process hands in
    stats, prometheus, topology, certs, dump, process, page    the views, a family each

Views read the running state and never change it; the few that act (``process.py``) call the process's own actions.
Reading 10,000 clusters takes a while, so long answers are generators that give way to the event loop.
"""
