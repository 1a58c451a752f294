"""A worker's process that prints in every way: `python -m tests.orchestrator.cluster.talking
STORE_URI FOLDER FLUSH_S END`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time

from orchestrator.cluster.log_capture import captured
from orchestrator.store.stage_logs import LogSettings

WAYS = ("print", "stderr", "logging", "write", "child", "library")


def talk() -> None:
    libc = ctypes.CDLL(None)
    print("by print")
    print("by stderr", file=sys.stderr)
    logging.getLogger("training").warning("by logging")
    os.write(1, b"by write\n")
    subprocess.run(["echo", "by child"], check=True)
    libc.puts(b"by library")
    libc.fflush(None)
    sys.stdout.flush()
    print("key", os.environ.get("SOME_SECRET", ""), "url http://me:sesame-open@host/", flush=True)


if __name__ == "__main__":
    uri, folder, flush_s, end = sys.argv[1:]
    with captured(uri, folder, LogSettings(flush_s=float(flush_s)), num_logs=1):
        talk()
        if end == "hang":
            time.sleep(600)
        if end == "error":
            raise ZeroDivisionError("a bug")
        if end == "exit":
            sys.exit(0)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    print("outside")
