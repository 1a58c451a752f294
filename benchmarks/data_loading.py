"""`python -m benchmarks.data_loading`: CPU time to load and augment an image, timm's and ours.

Contestants take turns, round by round and in alternating order, each in one loader process with one
thread. They load synthetic photographs of 500 x 375 pixels from files. docs/performance.md shows
and explains results.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.loading.contestants import Contestant, batches_of, make_ours, make_rival
from benchmarks.loading.photographs import HEIGHT_PX, WIDTH_PX, write_photographs
from benchmarks.loading.results import LEGEND, Result, results_of, table
from benchmarks.loading.settings import Settings, parse_settings
from benchmarks.speed.cases import synchronizer
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.rounds import Spread
from cat_model.weights.files import write_atomically
from pipelines.imagenet.augmentation import Augmentation, make_train_augmentation
from pipelines.imagenet.dataset import Batch
from pipelines.imagenet.transforms import Recipe
from pipelines.pretrain.data import recipe_of
from pipelines.pretrain.params import PretrainParams

_EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Document:
    """Everything that was measured."""

    command: str
    date: str
    machine: Mapping[str, str | int]
    settings: Settings
    file_bytes: int
    results: list[Result]
    batch_s: Mapping[str, Spread]
    """Seconds an image for the batch's part of `augmentation: device`, by kind of device."""

    def to_json(self) -> str:
        content = {
            "command": self.command,
            "date": self.date,
            "machine": self.machine,
            "settings": asdict(replace(self.settings, json=None)),
            "file_bytes": self.file_bytes,
            "results": [result.to_dict() for result in self.results],
            "batch_s": {device: spread._asdict() for device, spread in self.batch_s.items()},
        }
        return json.dumps(content, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 (even if a bar is missed), 2 for wrong arguments, 130 after Ctrl-C."""
    settings = parse_settings(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        document = measure(
            settings, command=" ".join(["python -m benchmarks.data_loading", *words])
        )
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    if settings.json is not None:
        write_atomically(settings.json, (document.to_json() + "\n").encode())
    return 0


def measure(settings: Settings, *, command: str) -> Document:
    """Measure everything, and print each part as soon as it is measured."""
    torch.set_num_threads(1)
    machine = describe_machine(torch.device(settings.device))
    recipe = recipe_of(PretrainParams(data="sample:digits", img_size=settings.img_size))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="photographs-") as folder:
        file_bytes = write_photographs(Path(folder), num_images=settings.images)
        print(_title(machine, settings, recipe, file_bytes), flush=True)
        contestants = _contestants(Path(folder), recipe, settings)
        results = results_of(_alternate(contestants, settings))
        print(f"\n{table(results)}\n\n{LEGEND}", flush=True)
        batches = list(batches_of(contestants[-1]))
    batch_s = _time_batches(batches, make_train_augmentation("device", recipe), settings)
    for device, spread in batch_s.items():
        print(f"\nthe batch's part of `device` on {device}: {1e6 * spread.median:.1f} us/image")
    return Document(command, date, machine, settings, file_bytes, results, batch_s)


def _contestants(root: Path, recipe: Recipe, settings: Settings) -> list[Contestant]:
    ours = [make_ours(mode, root, recipe, settings) for mode in ("reference", "fast", "device")]
    return [make_rival(root, recipe, settings), *ours]


def _alternate(contestants: Sequence[Contestant], settings: Settings) -> dict[str, list[float]]:
    """CPU seconds an image, of each contestant in each round.

    Every second round runs in the opposite order.
    """
    taken: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    order = list(contestants)
    for contestant in order:
        contestant.start()
    for _ in range(settings.rounds):
        for contestant in order:
            taken[contestant.name].append(contestant.pass_cpu_s() / settings.images)
        order.reverse()
    return taken


def _time_batches(
    batches: Sequence[Batch], augmentation: Augmentation, settings: Settings
) -> dict[str, Spread]:
    """Seconds an image on the CPU, and on the GPU if requested. Moving batches is not timed."""
    timed: dict[str, Spread] = {}
    for name in dict.fromkeys(("cpu", settings.device)):
        device = torch.device(name)
        moved = [batch.to(device) for batch in batches]
        _pass_s(moved, augmentation, device)
        rounds = [_pass_s(moved, augmentation, device) for _ in range(settings.rounds)]
        timed[name] = Spread.of([taken_s / settings.images for taken_s in rounds])
    return timed


def _pass_s(batches: Sequence[Batch], augmentation: Augmentation, device: torch.device) -> float:
    wait = synchronizer(device)
    wait()
    start = time.perf_counter()
    for batch in batches:
        augmentation.batch(batch)
    wait()
    return time.perf_counter() - start


def _title(
    machine: Mapping[str, str | int], settings: Settings, recipe: Recipe, file_bytes: int
) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, timm "
        f"{machine['timm']}\n"
        f"{settings.images} JPEGs of {WIDTH_PX} x {HEIGHT_PX}, {file_bytes / 1000:.0f} kB on "
        "average, to "
        f"{settings.img_size} x {settings.img_size}, {recipe.auto_augment}, batches of "
        f"{settings.batch_size}, "
        f"{settings.rounds} rounds"
    )


if __name__ == "__main__":
    sys.exit(main())
