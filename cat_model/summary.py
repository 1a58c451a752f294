"""`python -m cat_model.summary cat_small --img-size 224`: a table of stages, parameters and
multiply-adds.

cat_model.complexity does the counting; this module has the command line and the layout of the text.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict

from cat_model.complexity import PUBLISHED, Complexity, Part, Published, complexity
from cat_model.config import CONFIGS
from cat_model.printing import exit_code_of

PUBLISHED_FOR = ((224, 224), 1000)
"""Image height and width in pixels, and the number of classes."""
HEAD = ("part", "map", "windows", "channels", "heads", "groups", "params", "MAC", "share")
CONVENTIONS = {
    "reference": "products and norms, as the reference's flops()",
    "products": "all products, including attention",
    "modules": "convolutions, linear layers and norms only",
}
"""Text of each convention by its name in cat_model.complexity, in the order of the table."""
GAP = "  "


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.model not in CONFIGS:
        parser.error(_unknown(parsed.model))
    image_hw = _as_hw(parser, parsed.img_size)
    counted = complexity(CONFIGS[parsed.model], image_hw=image_hw, num_classes=parsed.num_classes)
    published = PUBLISHED[parsed.model] if (image_hw, parsed.num_classes) == PUBLISHED_FOR else None
    if parsed.json:
        content = as_json(counted, model=parsed.model, image_hw=image_hw, published=published)
        text = json.dumps(content, indent=2)
    else:
        text = (
            f"{_title(parsed.model, image_hw, parsed.num_classes)}\n\n{as_text(counted, published)}"
        )
    print(text)  # noqa: T201  a command's result
    return 0


def as_text(counted: Complexity, published: Published | None) -> str:
    """The table of parts and, below it, the sums by each convention next to the published ones, if
    they apply."""
    rows = [
        HEAD,
        *(_row(part, counted.macs.products) for part in counted.parts),
        _total_row(counted),
    ]
    return "\n".join([*_aligned(rows), "", *_aligned(_sums(counted, published))])


def as_json(
    counted: Complexity, *, model: str, image_hw: tuple[int, int], published: Published | None
) -> dict[str, object]:
    """The counts as unrounded whole numbers; `macs` of a part is by kind of operation, the total is
    by convention."""
    return {
        "model": model,
        "image_hw": image_hw,
        "parts": [asdict(part) for part in counted.parts],
        "params": counted.params,
        "macs": counted.conventions,
        "published": published and asdict(published),
    }


def _row(part: Part, products: int) -> tuple[str, ...]:
    groups = part.groups
    return (
        part.name,
        _size(part.map_hw) if part.map_hw else "",
        str(groups.num_windows) if groups else "",
        str(part.channels),
        str(groups.num_heads) if groups else "",
        str(groups.num_groups) if groups else "",
        _millions(part.params),
        _billions(part.macs.products),
        f"{100 * part.macs.products / products:.1f}%",
    )


def _total_row(counted: Complexity) -> tuple[str, ...]:
    return (
        "total",
        "",
        "",
        "",
        "",
        "",
        _millions(counted.params),
        _billions(counted.macs.products),
        "100.0%",
    )


def _sums(counted: Complexity, published: Published | None) -> list[tuple[str, ...]]:
    """A line for the parameters and one for each convention, with whether it rounds to the
    published figure."""
    params = ["parameters", _millions(counted.params)]
    macs = {
        name: [f"MAC: {text}", _billions(counted.conventions[name])]
        for name, text in CONVENTIONS.items()
    }
    if published is None:
        return [tuple(line) for line in (params, *macs.values())]
    params += [str(published.params_m), _verdict(round(counted.params / 1e6) == published.params_m)]
    for name, line in macs.items():
        agrees = round(counted.conventions[name] / 1e9, 1) == published.flops_g
        line += [str(published.flops_g), _verdict(agrees)]
    return [("", "", "published", ""), *(tuple(line) for line in (params, *macs.values()))]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Each row as a line: the first column left-aligned, the others right-aligned, each as wide as
    its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return GAP.join([row[0].ljust(widths[0]), *numbers]).rstrip()


def _title(model: str, image_hw: tuple[int, int], num_classes: int) -> str:
    channels = CONFIGS[model].in_chans
    classes = f"{num_classes} classes" if num_classes else "no classifier"
    image = f"image of {channels} x {image_hw[0]} x {image_hw[1]}"
    return f"{model}: {image}, {classes}\nparameters in millions, multiply-adds (MAC) in billions"


def _size(map_hw: tuple[int, int]) -> str:
    return f"{map_hw[0]}x{map_hw[1]}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f}"


def _billions(count: int) -> str:
    return f"{count / 1e9:.3f}"


def _verdict(agrees: bool) -> str:
    return "agrees" if agrees else "differs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cat_model.summary",
        description="Print the stages, parameters and multiply-adds (MAC) of a CAT. The network is "
        "the published one for images of 224 x 224 pixels: at other sizes its position embedding "
        "is resized, and its parameters stay the same.",
    )
    parser.add_argument("model", metavar="MODEL", help=", ".join(CONFIGS))
    parser.add_argument(
        "--img-size",
        nargs="+",
        type=_sides,
        default=[PUBLISHED_FOR[0]],
        metavar="N",
        help="image size in pixels: SIDE, HEIGHT WIDTH or HEIGHTxWIDTH (default: 224)",
    )
    parser.add_argument(
        "--num-classes",
        type=_num_classes,
        default=PUBLISHED_FOR[1],
        metavar="N",
        help="0: no classifier (default: 1000)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _unknown(model: str) -> str:
    near = difflib.get_close_matches(model, CONFIGS, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else "."
    return f"unknown model {model!r}{hint} The models are {', '.join(CONFIGS)}"


def _sides(text: str) -> tuple[int, ...]:
    """The one or two sides in one argument of --img-size."""
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: after the model's name give SIDE, HEIGHT WIDTH or "
            "HEIGHTxWIDTH, each 1 to 99999 pixels"
        )
    return tuple(int(side) for side in text.split("x"))


def _as_hw(parser: argparse.ArgumentParser, words: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    sides = [side for word in words for side in word]
    if len(sides) > 2:
        parser.error(
            "argument --img-size: give one side or two, height and width, got "
            f"{' '.join(map(str, sides))}"
        )
    return sides[0], sides[-1]


def _num_classes(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of classes: give 0 (no classifier) to 999999999"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
