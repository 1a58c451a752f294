"""`python -m benchmarks.model_speed`: speed and memory of CAT and models of timm, in one run.

All models of a case (forward or training step, precision, batch size) take turns, round by round
and in alternating order. A ratio therefore compares measurements that are seconds apart on the same
machine. Roofs are measured in the same run. docs/performance.md shows and explains results.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.speed.cases import Skipped, run_case, synchronizer
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.networks import make_network
from benchmarks.speed.results import Result
from benchmarks.speed.roofs import Roofs, measure_roofs
from benchmarks.speed.settings import DTYPES, Precision, Settings, parse_settings
from benchmarks.speed.table import LEGEND, table, title
from cat_model.weights.files import write_atomically

_EXIT_NOTHING_MEASURED = 1
_EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Document:
    """All measurements so far."""

    command: str
    date: str
    machine: Mapping[str, str | int]
    settings: Settings
    roofs: Mapping[Precision, Roofs]
    results: list[Result] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def to_json(self) -> str:
        content = {
            "command": self.command,
            "date": self.date,
            "machine": self.machine,
            "settings": asdict(replace(self.settings, json=None)),
            "roofs": {precision: asdict(roofs) for precision, roofs in self.roofs.items()},
            "results": [result.to_dict() for result in self.results],
            "skipped": [skipped.to_dict() for skipped in self.skipped],
        }
        return json.dumps(content, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 if nothing could be measured, 2 for wrong arguments, 130 after Ctrl-C."""
    settings = parse_settings(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        document = measure(settings, command=" ".join(["python -m benchmarks.model_speed", *words]))
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0 if document.results else _EXIT_NOTHING_MEASURED


def measure(settings: Settings, *, command: str) -> Document:
    """Print each case when it is done, and rewrite the JSON file after each."""
    device = torch.device(settings.device)
    _set_up(settings)
    roofs = {
        name: measure_roofs(DTYPES[name], device=device, synchronize=synchronizer(device))
        for name in settings.precisions
    }
    date = datetime.now(UTC).isoformat(timespec="seconds")
    document = Document(command, date, describe_machine(device), settings, roofs)
    print(title(document.machine, settings, roofs), flush=True)
    names = (*settings.models, *settings.rivals)
    networks = [make_network(name, img_size=settings.img_size, device=device) for name in names]
    for case in settings.cases():
        results, skipped = run_case(
            case, networks, settings, roofs=roofs[case.precision], device=device
        )
        document.results.extend(results)
        document.skipped.extend(skipped)
        print(f"\n{table(case, results, skipped)}", flush=True)
        if settings.json is not None:
            _write(settings.json, document)
    print(f"\n{LEGEND}")
    return document


def _set_up(settings: Settings) -> None:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high" if settings.is_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = settings.is_tf32


def _write(path: Path, document: Document) -> None:
    write_atomically(path, (document.to_json() + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
