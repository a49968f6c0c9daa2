"""What the end-to-end tests are built from: certificate authorities, peers, faults, and the real program.

Everything here is blocking or threaded, so that it shares no loop, no code and no mistake with the proxy.
"""
