"""`python -m tests.benchmarks.telling ITERATIONS FAILS_AT`: tells iterations, in a child of its own as Ray's are."""

from __future__ import annotations

import json
import subprocess
import sys
import time


def main() -> None:
    if sys.argv[-1] != "child":
        done = subprocess.run([sys.executable, "-m", "tests.benchmarks.telling", *sys.argv[1:], "child"], check=False)
        sys.exit(done.returncode)
    iterations, fails_at = map(int, sys.argv[1:3])
    for iteration in range(1, iterations + 1):
        time.sleep(0.02)
        if iteration == fails_at:
            sys.exit("no more")
        print(json.dumps([time.time(), iteration, 1.0]), flush=True)


if __name__ == "__main__":
    main()
