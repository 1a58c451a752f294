"""Runs a search for benchmarks.search: a job on the sample data, one trial at a time.

The results are read from the job's store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import run_module
from orchestrator.artifact import Manifest
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact
from orchestrator.trials import TRIALS_FILE, Trials

SPACE = {
    "lr": {"loguniform": [1e-4, 3e-2]},
    "drop_path_rate": {"uniform": [0.0, 0.5]},
    "weight_decay": {"uniform": [0.0, 0.3]},
}
TEMPLATE: Mapping[str, Any] = {
    "data": "sample:digits",
    "model": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "img_size": 28},
    "batch_size": 32,
    "warmup_epochs": 1,
    # Digits are not symmetric, and a small crop of a digit often looks like another digit.
    "hflip": 0.0,
    "scale": [0.7, 1.0],
    "auto_augment": None,
    "color_jitter": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "loader_workers": 0,
}
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "asha+tpe": {
        "algorithm": "optuna",
        "scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 3},
    },
    "random": {"algorithm": "random", "scheduler": {"name": "none"}},
}


class Ended(NamedTuple):
    """A trial's end: seconds since its search began, the last epoch, and top-1 in %."""

    after_s: float
    epoch: int
    top1: float | None


@dataclass(frozen=True)
class Searched:
    """A finished search; `ended_s` maps a trial to its end in seconds since the search began."""

    trials: Trials
    ended_s: Mapping[str, float]

    @property
    def core_s(self) -> float:
        """Core-seconds spent until its last trial ended; the search uses one core."""
        return max(self.ended_s.values())

    @property
    def ended(self) -> tuple[Ended, ...]:
        """The ends of its trials, in the order of their numbers."""
        return tuple(
            Ended(self.ended_s[trial.id], trial.epoch, trial.value) for trial in self.trials.trials
        )

    def within(self, core_s: float) -> Trials:
        """The trials that ended within `core_s` core-seconds."""
        ended = tuple(trial for trial in self.trials.trials if self.ended_s[trial.id] <= core_s)
        return self.trials.model_copy(update={"trials": ended})


def search(
    folder: Path,
    settings: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    num_trials: int,
    seed: int,
) -> Searched:
    """Run a search as a job, whose file is written as JSON (which is YAML)."""
    folder.mkdir()
    resources = {"workers": 1, "cpus_per_worker": 1}
    template = {
        "kind": "pretrain",
        **TEMPLATE,
        **changes,
        "checkpoint_every": changes["epochs"],
        "resources": resources,
    }
    stage = {
        "kind": "tune",
        "of": "train",
        "space": SPACE,
        "num_trials": num_trials,
        "max_concurrent": 1,
        "scheduler": settings["scheduler"],
        "algorithm": {"name": settings["algorithm"], "seed": seed},
    }
    job = {
        "name": "search",
        "store": str(folder / "store"),
        "stages": {"search": stage, "train": template},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    run_module("orchestrator", "run", str(folder / "job.yaml"), "--only", "search")
    return _searched(folder / "store", folder / "trials")


def _searched(store_dir: Path, folder: Path) -> Searched:
    """Read a search from its store: manifest, trials and events."""
    (path,) = store_dir.glob("manifests/*.json")
    manifest = Manifest.from_json(path.read_bytes(), where=str(path))
    fetched = fetch_artifact(open_store(str(store_dir)), manifest.artifacts["trials"], folder)
    trials = Trials.model_validate_json((fetched / TRIALS_FILE).read_bytes())
    lines = [
        line
        for path in store_dir.glob("runs/*/events/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    events = sorted((json.loads(line) for line in lines), key=lambda event: event["time_s"])
    began_s = next(
        event["time_s"] for event in events if event["event"]["total"] == len(trials.trials)
    )
    return Searched(
        trials, {event["trial"]: event["time_s"] - began_s for event in events if event["trial"]}
    )
