"""A child that does what TOY_<NAME> says instead of serving: for tests of the supervisor alone.

ready (default): serve nothing, turn its loop, end at SIGTERM. deaf: the same, but ignore SIGTERM. hang: ready, but its
loop never turns. exit:N: end with code N at once.
"""

import os
import signal
import sys
import time

from nodedb_node._native import ffi, lib
from nodedb_node.ids import Process, process_name
from nodedb_node.supervisor import child

boot = child.enter(sys.argv)
does = os.environ.get("TOY_" + process_name(Process(boot.process)).upper().replace("-", "_"), "ready")
if does.startswith("exit:"):
    sys.exit(int(does.removeprefix("exit:")))
signal.signal(signal.SIGTERM, signal.SIG_IGN if does == "deaf" else lambda *_: sys.exit(0))
handle = ffi.new("nd_shm **")
assert lib.nd_shm_map(boot.shm_fd, handle) == 0
metrics = lib.nd_shm_metrics(handle[0], boot.process)
child.ready(boot)
while True:
    if does != "hang":
        metrics.heartbeat_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    time.sleep(0.05)
