"""`orchestrator report --format html` of a large job: seconds, memory, size of the page.

    python -m benchmarks.report_page [--stages 500] [--points 2000]

The store is made first: each stage has a manifest and `points` events with one metric. The rival
in the same run is `--format json`, which reads the same store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.command import at_least
from orchestrator.artifact import Manifest, Metric
from orchestrator.contract import Event
from orchestrator.plan import Digests, PriorRuns, make_plan
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.record import RunRecord, RunState, StageEvent, StageRecord, record_name
from orchestrator.schedule import State
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import publish_manifest
from pipelines import KINDS

RUN_ID = "20261130T000000-000000"
MAX_S, MAX_GIB = 20.0, 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--stages", type=at_least(1), default=500)
    parser.add_argument("--points", type=at_least(2), default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), num_stages=arguments.stages, num_points=arguments.points)
        print(f"{arguments.stages} stages with {arguments.points} points each")
        seconds, gibibytes = {}, {}
        for name in ("json", "html"):
            began_s = time.monotonic()
            gibibytes[name] = _report(Path(folder), name)
            seconds[name] = time.monotonic() - began_s
            size = (Path(folder) / f"report.{name}").stat().st_size / 1e6
            print(f"{name}: {seconds[name]:.1f} s, {gibibytes[name]:.2f} GiB, {size:.1f} MB")
        is_met = seconds["html"] <= MAX_S and gibibytes["html"] <= MAX_GIB
        print(f"html is {'below' if is_met else 'ABOVE'} {MAX_S:g} s and {MAX_GIB:g} GiB")
    return 0 if is_met else 1


def make_store(folder: Path, *, num_stages: int, num_points: int) -> None:
    """A job of `num_stages` finished stages, as a run leaves it in its store."""
    stage = {"kind": "pretrain", "data": "data", "epochs": num_points, "warmup_epochs": 0}
    stages = {"train": {**stage, "matrix": {"seed": list(range(num_stages))}}}
    (folder / "job.yaml").write_text(json.dumps({"name": "large", "store": "s", "stages": stages}))
    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    prior = PriorRuns(is_done=lambda key: False, recipes={}, reruns={})
    plan = make_plan(job, digests=dict.fromkeys(job.stages, Digests("d", {})), prior=prior)
    store = open_store(job.store)
    records = {}
    for number, planned in enumerate(plan.stages):
        manifest = Manifest(
            key=planned.key,
            stage=planned.name,
            kind="pretrain",
            recipe=planned.recipe,
            params=planned.stage.params.model_dump(mode="json"),
            artifacts={},
            metrics=(Metric(name="top1", value=80.0, num_samples=50_000),),
            provenance={"run_id": RUN_ID},
        )
        publish_manifest(store, manifest)
        records[planned.name] = StageRecord(kind="pretrain", key=planned.key, state=State.DONE)
        events = (
            StageEvent(
                planned.name,
                1,
                float(point),
                Event("epoch", point, num_points, {"loss": 5 / point}),
            )
            for point in range(1, num_points + 1)
        )
        lines = "".join(json.dumps(asdict(event)) + "\n" for event in events)
        store.write(f"runs/{RUN_ID}/events/{number:06d}.jsonl", lines.encode())
    record = RunRecord(
        run_id=RUN_ID,
        job=job.name,
        state=RunState.DONE,
        began_at_s=0,
        heard_at_s=num_points,
        stages=records,
    )
    store.write(record_name(RUN_ID), record.model_dump_json().encode())
    write_last_run(store, plan, run_id=RUN_ID)


_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command and prints its peak memory in KiB. A process starts with the peak of the one that
forked it, so a small one has to."""


def _report(folder: Path, format_name: str) -> float:
    """Write the report; returns the peak memory of its process in GiB."""
    command = [sys.executable, "-m", "orchestrator", "report", "job.yaml"]
    options = ["--format", format_name, "--output", f"report.{format_name}"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _MEASURE, *command, *options],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(done.stdout) / 2**20


if __name__ == "__main__":
    sys.exit(main())
