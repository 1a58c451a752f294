"""`python -m benchmarks.train_gpu`: how fast CAT trains on a GPU, its MFU, and its profile.

Each size is trained in bf16 with several batch sizes. At its fastest batch size it is profiled, and
then run compiled. The most important cases come first, and the sweep stops after --minutes, because
time on a GPU is limited. docs/performance.md has results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.cases import synchronizer
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.roofs import Roofs, measure_roofs
from benchmarks.training.shares import GROUPS, shares
from benchmarks.training.step import Case, Step, flops_per_s
from benchmarks.training.windows import Measured, measure
from cat_model import CONFIGS
from cat_model.weights.files import write_atomically

COMPILE_S = 60.0
"""The time reserved for a compilation: with less time left, none starts."""
_EXIT_NOTHING_MEASURED = 1
_DATA_SHEETS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""Dense bf16 FLOP/s from NVIDIA's data sheets, by a part of the device's name.

A longer name comes before its own prefix.
"""
_COLUMNS = {
    "img/s": 9,
    "min..max": 17,
    "TFLOP/s": 9,
    "of matmul": 11,
    "of data sheet": 15,
    "GiB": 7,
    "warm-up s": 11,
}


@dataclass
class Document:
    """All measurements so far."""

    command: str
    date: str
    machine: Mapping[str, str | int]
    roofs: Roofs
    data_sheet_flops_per_s: float | None
    results: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)


class Sweep:
    """Runs cases until the time is up; prints each and updates the JSON file when it is done."""

    def __init__(
        self,
        options: argparse.Namespace,
        *,
        command: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self._clock = clock
        self._deadline_s: float = clock() + 60 * options.minutes
        self.device = torch.device(options.device)
        roofs = measure_roofs(
            torch.bfloat16, device=self.device, synchronize=synchronizer(self.device)
        )
        machine = describe_machine(self.device)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        self.document = Document(command, date, machine, roofs, data_sheet(str(machine["device"])))
        self._print_head()

    def run(self) -> Document:
        """Sweep and profile every size first, then run each compiled at its fastest batch size."""
        fastest = [best for name in self.options.models if (best := self._sweep_batches(name))]
        if self.options.compile:
            for case in fastest:
                self._try(
                    Case(case.model, case.batch_size, case.img_size, is_compiled=True),
                    is_profiled=True,
                )
        return self.document

    def _sweep_batches(self, model: str) -> Case | None:
        """Profile and return the case with the most images a second; None if nothing could run."""
        best: Measured[Case] | None = None
        for batch_size in self.options.batch_sizes:
            case = Case(model, batch_size, self.options.img_size, is_compiled=False)
            measured = self._try(case, is_profiled=False)
            if measured and (
                best is None or measured.images_per_s.median > best.images_per_s.median
            ):
                best = measured
        if best is not None and not self._lacks(1.0):
            self._profile(best, Step(best.case, self.device))
        return best.case if best else None

    def _try(self, case: Case, *, is_profiled: bool) -> Measured[Case] | None:
        """Measure a case; print the reason and return None if it cannot run.

        The reasons are lack of memory, a failed compilation, and lack of time.
        """
        reason = "out of time" if self._lacks(COMPILE_S if case.is_compiled else 0.0) else None
        measured = None
        if reason is None:
            measured, reason = self._measure(case, is_profiled=is_profiled)
        if reason is not None:
            self.document.skipped.append({**asdict(case), "reason": reason})
            print(f"{_label(case)}  skipped: {reason}", flush=True)
        self._write()
        return measured

    def _measure(
        self, case: Case, *, is_profiled: bool
    ) -> tuple[Measured[Case] | None, str | None]:
        reason = None
        try:
            step = Step(case, self.device)
            measured = measure(case, step, self.device)
        except torch.OutOfMemoryError:
            reason = "out of memory"
        except RuntimeError as err:
            # After an AcceleratorError the device cannot be used.
            if not case.is_compiled or isinstance(err, torch.AcceleratorError):
                raise
            reason = f"cannot be compiled here: {str(err).strip().partition(chr(10))[0]}"
        # This is outside `except`, because the error's traceback holds the activations.
        if reason is not None:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None, reason
        self.document.results.append(self._result(measured))
        print(self._row(measured), flush=True)
        if is_profiled:
            self._profile(measured, step)
        return measured, None

    def _profile(self, measured: Measured[Case], step: Step) -> None:
        found = shares(step, step_s=measured.step_s, device=self.device)
        (result,) = (one for one in self.document.results if one["case"] == asdict(measured.case))
        result["shares"] = found
        text = ", ".join(f"{group} {100 * found[group]:.0f}%" for group in GROUPS)
        print(f"{_label(measured.case)}  {text}", flush=True)
        self._write()

    def _lacks(self, needed_s: float) -> bool:
        return self._clock() + needed_s > self._deadline_s

    def _result(self, measured: Measured[Case]) -> dict[str, Any]:
        matmul, sheet = self._mfu(measured)
        return {
            "case": asdict(measured.case),
            "images_per_s": measured.images_per_s._asdict(),
            "flops_per_s": flops_per_s(measured),
            "mfu_of_matmul": matmul,
            "mfu_of_data_sheet": sheet,
            "peak_bytes": measured.peak_bytes,
            "warm_up_s": measured.warm_up_s,
        }

    def _mfu(self, measured: Measured[Case]) -> tuple[float, float | None]:
        sheet = self.document.data_sheet_flops_per_s
        of_matmul = flops_per_s(measured) / self.document.roofs.matmul_flops_per_s
        return of_matmul, None if sheet is None else flops_per_s(measured) / sheet

    def _row(self, measured: Measured[Case]) -> str:
        matmul, sheet = self._mfu(measured)
        rates = measured.images_per_s
        cells = (
            f"{rates.median:.4g}",
            f"{rates.min:.4g}..{rates.max:.4g}",
            f"{flops_per_s(measured) / 1e12:.3g}",
            f"{matmul:.1%}",
            "-" if sheet is None else f"{sheet:.1%}",
            f"{measured.peak_bytes / 2**30:.2f}",
            f"{measured.warm_up_s:.1f}",
        )
        return _label(measured.case) + _aligned(cells)

    def _print_head(self) -> None:
        document, sheet = self.document, self.document.data_sheet_flops_per_s
        print(f"{document.machine['device']}, torch {document.machine['torch']}, {document.date}")
        print(
            f"bf16 roofs: {document.roofs.matmul_flops_per_s / 1e12:.4g} TFLOP/s (matmul of side "
            f"{document.roofs.matmul_side}), {document.roofs.copy_bytes_per_s / 1e9:.4g} GB/s "
            "(copy)" + ("" if sheet is None else f"; data sheet {sheet / 1e12:.4g} TFLOP/s")
        )
        print(f"{'model':<10}{'batch':>6}  {'run':<8}{_aligned(tuple(_COLUMNS))}", flush=True)

    def _write(self) -> None:
        if self.options.json is not None:
            write_atomically(
                self.options.json, (json.dumps(asdict(self.document), indent=2) + "\n").encode()
            )


def data_sheet(device: str) -> float | None:
    """FLOP/s of the device by its data sheet; None for an unknown device."""
    return next((flops for name, flops in _DATA_SHEETS.items() if name in device), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 if nothing could be measured, 2 for wrong arguments."""
    options = _parse(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    document = Sweep(options, command=" ".join(["python -m benchmarks.train_gpu", *words])).run()
    return 0 if document.results else _EXIT_NOTHING_MEASURED


def _label(case: Case) -> str:
    return f"{case.model:<10}{case.batch_size:>6}  {'compiled' if case.is_compiled else 'eager':<8}"


def _aligned(cells: Sequence[str]) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_gpu",
        description="Measure training of CAT in bf16: rate, MFU, memory, shares.",
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        choices=tuple(CONFIGS),
        default=list(CONFIGS),
        help="default: all three",
    )
    add(
        "--batch-sizes",
        nargs="+",
        type=_count,
        default=[256, 128, 512, 64],
        metavar="N",
        help="batch sizes, measured in this order; default: 256 128 512 64",
    )
    add("--img-size", type=_count, default=224, metavar="PIXELS")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure each size compiled, at its fastest batch size",
    )
    add(
        "--minutes",
        type=float,
        default=5.0,
        metavar="N",
        help="start no case after N minutes; default: 5",
    )
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--json",
        type=_file,
        metavar="PATH",
        help="write all measurements as one JSON document, after each case",
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _file(text: str) -> Path:
    """A file to write; checked before the measurement rather than after it."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"must be a file in a writable folder, got {text!r}")
    return path


if __name__ == "__main__":
    sys.exit(main())
