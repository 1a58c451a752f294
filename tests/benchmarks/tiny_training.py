"""`python -m tests.benchmarks.tiny_training ITERATIONS FAILS_AT`: by mmengine, in a child of its
own as Ray's are."""

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
    """Loss and weight are 1 / 2 ** (updates before)."""
    import torch  # noqa: PLC0415  the parent needs none of it
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
