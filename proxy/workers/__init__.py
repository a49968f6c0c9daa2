"""Several processes behind the same ports: ``--concurrency N``, N of 2 and more.

    supervisor.py  the fleet, which stands where a single process has its runtime: takes plans, keeps workers alive
    process.py     one worker as the supervisor sees it: a child process and the questions put to it
    worker.py      the worker itself: an event loop, a runtime, and listeners that share their ports
    channel.py     messages between the two, in frames over a private socket pair
    messages.py    what is said there
    difference.py  a plan as the difference to the one before: what is the same is not sent again
    report.py      what a worker says of its state, in slices
    image.py       the reports of all workers as one, for the admin interface

The supervisor reads files, plans, and answers the admin interface; it touches no traffic. A worker knows its part of a
plan and no file. Whoever ends, ends alone: a worker is replaced, and one that lost its supervisor drains and goes.
"""
