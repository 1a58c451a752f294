"""A lease for tests that need only its Key, token and run."""

from __future__ import annotations

from orchestrator.process import Process
from orchestrator.store.lease import Lease


def bare_lease(key: str, token: int, run_id: str = "run", **fields: object) -> Lease:
    """Return a lease of this process on the stage `train`, with other `fields`."""
    values: dict[str, object] = {
        "job": "job",
        "stage": "train",
        "host": "node-1",
        "process": Process.current(),
        "began_at_s": 0.0,
    }
    return Lease.model_validate({"key": key, "token": token, "run_id": run_id, **values, **fields})
