"""Checks the folder of a finished model before an evaluation: its classes against the data's, and
whether it is a single file from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import CheckpointError
from pipelines.data.faults import first_named


def file_from_outside(directory: Path) -> Path | None:
    """The only file of a folder with a checkpoint from outside the job; None for a folder of
    ours."""
    files = list(directory.iterdir())
    return files[0] if len(files) == 1 else None


MEASURED = "evaluate it on data with the same classes"


def check_classes(
    held: Sequence[str], wanted: Sequence[str], *, what: str = "checkpoint", fitting: str = MEASURED
) -> None:
    """Raises CheckpointError unless the model's classes `held` equal the data's `wanted`, in their
    order.

    `what` is the field that names the model; `fitting` says what to do about a difference.
    """
    if tuple(held) == tuple(wanted):
        return
    only_held, only_wanted = sorted(set(held) - set(wanted)), sorted(set(wanted) - set(held))
    differing = (
        f"only in the checkpoint: {first_named(only_held)}; only in the data: "
        f"{first_named(only_wanted)}"
    )
    if not only_held and not only_wanted:
        differing = "the same classes in a different order"
    raise CheckpointError(
        f"{what}: its {len(held)} classes differ from the data's {len(wanted)}: {differing}; "
        f"{fitting}"
    )
