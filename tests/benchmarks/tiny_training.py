"""`python -m tests.benchmarks.tiny_training ITERATIONS FAILS_AT`: a tiny training by mmengine.

It runs in a child process, as the workers of Ray do.
"""

from __future__ import annotations

import subprocess
import sys
import time


def main() -> None:
    if sys.argv[-1] != "child":
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.tiny_training", *sys.argv[1:], "child"],
            check=False,
        )
        sys.exit(done.returncode)
    _train(*map(int, sys.argv[1:3]))


def _train(iterations: int, fails_at: int) -> None:
    """Train so that loss and weight are 1 / 2 ** (number of earlier updates)."""
    import torch  # noqa: PLC0415  the parent does not need it
    from mmengine.optim import OptimWrapper  # noqa: PLC0415

    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = OptimWrapper(torch.optim.SGD([weight], lr=0.5))
    for iteration in range(1, iterations + 1):
        time.sleep(0.02)
        if iteration == fails_at:
            sys.exit("no more")
        optimizer.update_params(weight * 1.0)
        with torch.no_grad():
            weight.copy_(torch.tensor(0.5**iteration))


if __name__ == "__main__":
    main()
