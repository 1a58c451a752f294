"""Format numbers and times for tables."""

from __future__ import annotations


def number_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def change_text(value: float | None) -> str:
    """Return the change with its sign. A change that rounds to zero is +0.00."""
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def count_text(number: float, noun: str) -> str:
    """Return `1 file`, `2 files`, `0.5 files` and similar."""
    shown = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def size_text(num_bytes: float) -> str:
    """Return a size with three significant digits in decimal units: `3 B`, `65.5 MB`, `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:  # noqa: PLR2004  what rounds to 1000 needs the next unit
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def duration(seconds: float) -> str:
    """Return at most the two largest units: `42 s`, `12 min`, `2 h 5 min`, `3 d 4 h`."""
    minutes, hours, days = (int(seconds // unit_s) for unit_s in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def hours_text(hours: float) -> str:
    """Return three significant digits, or the whole number from 100 on: `0.00123`, `4.5`,
    `1,234`."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"  # noqa: PLR2004
