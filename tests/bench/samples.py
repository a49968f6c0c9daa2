"""What the load's programs print, as they printed it."""

from __future__ import annotations

WRK = """\
Running 1s test @ http://127.0.0.1:8080/small
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   512.09us    1.02ms  17.17ms   93.45%
    Req/Sec    62.03k     4.12k   68.11k    70.00%
  62030 requests in 1.10s, 12.19MB read
Requests/sec:  56390.91
Transfer/sec:     11.08MB
"""
WRK_ERRORS = WRK.replace("Requests/sec", "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec")
WRK_503 = WRK.replace("Requests/sec", "  Non-2xx or 3xx responses: 12\nRequests/sec")
WRK_NOTHING = WRK.replace("62030 requests", "0 requests")

H2LOAD = """\
starting benchmark...
spawning thread #0: 8 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration.
Application protocol: h2c
finished in 1.01s, 41555.00 req/s, 3.84MB/s
requests: 41555 total, 41683 started, 41555 done, 41555 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 41565 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.84MB (4031000) total, 0.62MB (650100) headers (space savings 77.88%), 2.38MB (2493300) data
                     min         max         mean         sd        +/- sd
time for request:      300us     31.84ms      3.06ms      2.14ms    71.53%
"""
H2LOAD_FAILED = H2LOAD.replace("0 failed", "2 failed")
H2LOAD_404 = H2LOAD.replace("41565 2xx, 0 3xx, 0 4xx", "0 2xx, 0 3xx, 41555 4xx")
