"""The command line with the kinds of these tests beside the others: `python -m tests.orchestrator
run JOB`."""

from __future__ import annotations

import pipelines
from tests.orchestrator.counting import KINDS

if __name__ == "__main__":
    pipelines.KINDS = {**pipelines.KINDS, **KINDS}
    from orchestrator.cli import main

    main()
