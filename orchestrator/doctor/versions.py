"""Verdicts on versions: of Ray and Python before joining a cluster, and of packages on its
machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.doctor.check import CLUSTER, DRIVER, Check, Verdict

PYTHON = "python"
PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "timm",
    "numpy",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "onedl-mmsegmentation",
    "pydantic",
    "boto3",
)
"""The packages whose versions must be the same on all machines: they compute the results, or send
objects between processes."""
_JOINING = ("ray", PYTHON)


def judge_cluster(cluster: Mapping[str, str], driver: Mapping[str, str | None]) -> Iterator[Check]:
    """Judge the versions of Ray and Python that a cluster reports to those who want to join it."""
    for name in _JOINING:
        there, here = cluster[name], driver[name]
        label = f"{name} of the cluster"
        if there == here:
            yield Check(label, CLUSTER, Verdict.OK, f"{there}, as here")
            continue
        todo = (
            f"run this command with {name} {there}, for example on one of the cluster's machines, "
            f"or start the cluster with {name} {here}"
        )
        detail = f"{there}, but {here} here: Ray refuses to join"
        yield Check(label, CLUSTER, Verdict.FAULT, detail, todo)


def judge_packages(
    found: Mapping[str, str | None], node: str, *, driver: Mapping[str, str | None]
) -> Iterator[Check]:
    """Judge the packages of a machine against the driver's: one line if all agree, else one for
    each that differs. On the driver itself, a package may only be missing."""
    if node == DRIVER:
        yield from _missing(found)
        return
    differing = [name for name in driver if found.get(name) != driver[name]]
    for name in differing:
        there, here = found.get(name) or "not installed", driver[name] or "none"
        todo = f"install {name} {here} there, so that all machines compute the same"
        yield Check(
            "packages", node, Verdict.FAULT, f"{name} is {there}, but {here} on the driver", todo
        )
    if not differing:
        yield Check("packages", node, Verdict.OK, f"{len(driver)} versions as on the driver")


def _missing(found: Mapping[str, str | None]) -> Iterator[Check]:
    missing = [name for name, version in found.items() if version is None]
    if missing:
        todo = "install the project's environment (`make install`) here"
        detail = f"{', '.join(missing)}: not installed"
        yield Check("packages", DRIVER, Verdict.FAULT, detail, todo)
        return
    shown = ", ".join(f"{name} {found[name]}" for name in (PYTHON, "ray", "torch"))
    yield Check("packages", DRIVER, Verdict.OK, shown)
