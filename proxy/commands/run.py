"""``koguma run``: be the proxy."""

from __future__ import annotations

import asyncio
import gc

import uvloop

from proxy import logs
from proxy.options import RunOptions
from proxy.process import Process


def run(options: RunOptions) -> int:
    setup = logs.configure(options.log_level, options.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_main(options))
    finally:
        setup.close()


async def _main(options: RunOptions) -> int:
    # What is loaded by now stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    return await Process(options).run()
