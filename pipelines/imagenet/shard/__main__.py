"""`python -m pipelines.imagenet.shard SRC DST`: writes shards of a folder tree or class map;
`--index` only indexes existing shards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from orchestrator.errors import DataError, JobError, OrchestratorError
from orchestrator.streams import exit_code_of
from pipelines.imagenet.layouts import open_images
from pipelines.imagenet.shard.index import INDEX_NAME, Shard
from pipelines.imagenet.shard.indexing import make_index
from pipelines.imagenet.shard.location import open_location
from pipelines.imagenet.shard.writer import write_shards

IMAGES_PER_SHARD = 1000
"""About 110 MB for ImageNet."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.index is not None:
            _index(parsed.index)
        else:
            _write(parsed.src, parsed.dst, parsed.images_per_shard)
    except OrchestratorError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("interrupted: the index was not written; run the same command again", file=sys.stderr)
        return INTERRUPTED
    return 0


def _write(src: str | None, dst: str | None, images_per_shard: int) -> None:
    if src is None or dst is None:
        raise JobError("give SRC and DST, or --index LOCATION")
    if src.rstrip("/") == dst.rstrip("/"):
        raise JobError(f"{dst}: SRC and DST are the same; choose another DST")
    location = open_location(dst)
    written = write_shards(
        open_images(src), location, images_per_shard=images_per_shard, on_shard=_report_shard
    )
    if written.num_written == 0:
        print(
            f"{location.uri}: already complete: {written.num_images} images in "
            f"{written.num_shards} shards"
        )
    else:
        print(f"{location.uri}: wrote {written.num_images} images in {written.num_shards} shards")


def _index(where: str) -> None:
    location = open_location(where)
    found = location.find_shards()
    total = sum(map(len, found.values()))
    if total == 0:
        raise DataError(
            f"{location.uri}: holds no shards; put them in train/*.tar or train-*.tar, and "
            "likewise for val"
        )
    done: list[Shard] = []

    def report_shard(shard: Shard) -> None:
        done.append(shard)
        _report_shard(shard, len(done), total)

    location.write(
        INDEX_NAME, make_index(location, found, with_sha256=True, on_shard=report_shard).to_json()
    )
    print(f"{location.uri}/{INDEX_NAME}: {sum(map(len, done))} images in {total} shards")


def _report_shard(shard: Shard, number: int, total: int) -> None:
    print(
        f"{shard.name}: {len(shard)} images, {shard.size / 1e6:.1f} MB; {number}/{total}",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.imagenet.shard",
        description="Write the images of SRC (train/<class>/*, or train_map.txt, and likewise val) "
        "as tar shards with "
        "an index into DST, a folder or s3://BUCKET/PREFIX.",
    )
    parser.add_argument("src", nargs="?", metavar="SRC", help="a folder, or sample:digits")
    parser.add_argument("dst", nargs="?", metavar="DST", help="a folder, or s3://BUCKET/PREFIX")
    parser.add_argument(
        "--images-per-shard",
        type=_count,
        default=IMAGES_PER_SHARD,
        metavar="N",
        help=f"default: {IMAGES_PER_SHARD}",
    )
    parser.add_argument(
        "--index",
        metavar="LOCATION",
        help=f"only write {INDEX_NAME} for the existing shards at LOCATION",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
