"""The command line with the additional kinds of these tests: `python -m tests.orchestrator run
JOB`."""

from __future__ import annotations

import pipelines
from tests.orchestrator.counting import KINDS

if __name__ == "__main__":
    pipelines.KINDS = {**pipelines.KINDS, **KINDS}
    from orchestrator.cli import main

    main()
