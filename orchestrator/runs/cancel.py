"""Requests to cancel a run or some of its stages, `runs/<run id>/cancel/`.

Any machine that reaches the store writes them. The run's driver reads them every few seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from orchestrator.store.protocol import Store

POLL_S = 10.0
"""The interval at which the driver looks for requests."""
POLL_VARIABLE = "ORCHESTRATOR_CANCEL_POLL_S"
"""The environment variable that changes it for a run."""
WHOLE_RUN = "_run"
"""Stands for all stages in a request. The name of a stage begins with a letter."""


def request_cancel(store: Store, run_id: str, names: Iterable[str], *, now_s: float) -> None:
    """Ask the driver of a run to cancel the stages `names`, or WHOLE_RUN. Raises StoreError."""
    content = json.dumps({"requested_at_s": now_s}).encode()
    for name in names:
        store.write(f"{_folder(run_id)}/{name}.json", content)


def load_requests(store: Store, run_id: str) -> frozenset[str]:
    """Return the names of the stages to cancel, perhaps with WHOLE_RUN. Raises StoreError."""
    prefix = f"{_folder(run_id)}/"
    return frozenset(
        name.removeprefix(prefix).removesuffix(".json") for name in store.names(_folder(run_id))
    )


def _folder(run_id: str) -> str:
    return f"runs/{run_id}/cancel"
