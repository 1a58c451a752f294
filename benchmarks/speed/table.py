"""Formats results as text: a title, an aligned table of at most 120 columns, skipped entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.speed.cases import Skipped
from benchmarks.speed.results import Result
from benchmarks.speed.roofs import Roofs
from benchmarks.speed.rounds import Spread
from benchmarks.speed.settings import Case, Precision, Settings

HEAD = (
    "model",
    "run",
    "img/s",
    "x rival",
    "min..max",
    "x eager",
    "MiB",
    "TFLOP/s",
    "share",
    "GB/s",
    "share",
)
LEGEND = """\
img/s: the median of all rounds. x rival, x eager: the median of the rounds' ratios to the first
rival, run in the same way, and to the same model run eagerly. MiB: the peak memory of a step,
without weights and optimizer state. TFLOP/s and its share of the matmul: a multiply-add of the
plain network counts 2, training 3 times the forward pass. GB/s and its share of the copy: bytes
that operators read and write, as if nothing were cached; a cache can raise the share above 100%."""
_TEXT_COLUMNS = 2
_GAP = "  "


def title(
    machine: Mapping[str, str | int], settings: Settings, roofs: Mapping[Precision, Roofs]
) -> str:
    lines = [
        (
            f"{machine['device']}, {machine['threads']} CPU threads, torch {machine['torch']}, "
            f"timm {machine['timm']}"
        ),
        f"images of {settings.img_size} x {settings.img_size}, {settings.rounds} rounds, "
        f"rival: {settings.rivals[0] if settings.rivals else 'none'}",
    ]
    for precision, roof in roofs.items():
        lines.append(
            f"{precision} roofs: {roof.matmul_flops_per_s / 1e12:.3g} TFLOP/s (matmul of side "
            f"{roof.matmul_side}), {roof.copy_bytes_per_s / 1e9:.3g} GB/s (copy of "
            f"{roof.copy_bytes // 2**20} MiB, read and written)"
        )
    return "\n".join(lines)


def table(case: Case, results: Sequence[Result], skipped: Sequence[Skipped]) -> str:
    """The results of a case as text; empty columns are left out."""
    rows = [_row(result) for result in results]
    columns = [column for column in zip(HEAD, *rows, strict=True) if any(column[1:])]
    lines = [f"{case.mode}, {case.precision}, batch {case.batch_size}"]
    lines += aligned(list(zip(*columns, strict=True)), num_text_columns=_TEXT_COLUMNS)
    return "\n".join(
        [*lines, *(f"skipped: {one.model}, {one.run}: {one.reason}" for one in skipped)]
    )


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.model,
        result.run,
        _number(result.images_per_s.median),
        _number(result.ratio_to_rival and result.ratio_to_rival.median),
        _range(result.ratio_to_rival),
        _number(result.ratio_to_eager and result.ratio_to_eager.median),
        f"{result.counts.peak_bytes / 2**20:.0f}",
        _number(result.flops_per_s / 1e12),
        _percent(result.share_of_matmul),
        _number(result.bytes_per_s and result.bytes_per_s / 1e9),
        _percent(result.share_of_copy),
    )


def _number(value: float | None) -> str:
    """A value with three significant digits and no exponent; empty for None."""
    if value is None:
        return ""
    num_decimals = next(
        (decimals for limit, decimals in ((1, 3), (10, 2), (100, 1)) if value < limit), 0
    )
    return f"{value:.{num_decimals}f}"


def _range(spread: Spread | None) -> str:
    return "" if spread is None else f"{_number(spread.min)}..{_number(spread.max)}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def aligned(rows: Sequence[Sequence[str]], *, num_text_columns: int) -> list[str]:
    """One line per row; the first `num_text_columns` are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(row, widths, num_text_columns) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int], num_text_columns: int) -> str:
    cells = [
        cell.ljust(width) if i < num_text_columns else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return _GAP.join(cells).rstrip()
