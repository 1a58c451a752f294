"""Verdicts on versions of packages, and of a cluster before joining it."""

from __future__ import annotations

from orchestrator.doctor.check import DRIVER, Verdict
from orchestrator.doctor.versions import judge_cluster, judge_packages

HERE: dict[str, str | None] = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.11.0"}


def test_a_cluster_with_the_same_versions_is_ok() -> None:
    checks = list(judge_cluster({"ray": "2.60.0", "python": "3.11.7"}, HERE))
    assert [check.verdict for check in checks] == [Verdict.OK, Verdict.OK]


def test_another_ray_on_the_cluster_is_a_fault() -> None:
    ray, python = judge_cluster({"ray": "2.40.0", "python": "3.11.7"}, HERE)
    assert (ray.verdict, python.verdict) == (Verdict.FAULT, Verdict.OK)
    assert ray.detail == "2.40.0, but 2.60.0 here: Ray refuses to join"
    assert ray.todo is not None
    assert "run this command with ray 2.40.0" in ray.todo


def test_equal_packages_of_a_node_are_one_line() -> None:
    (check,) = judge_packages(HERE, "node", driver=HERE)
    assert (check.verdict, check.detail) == (Verdict.OK, "3 versions as on the driver")


def test_each_package_that_differs_is_a_fault() -> None:
    found = {"python": "3.11.7", "ray": None, "torch": "9.9.0"}
    ray, torch = judge_packages(found, "node", driver=HERE)
    assert ray.detail == "ray is not installed, but 2.60.0 on the driver"
    assert torch.detail == "torch is 9.9.0, but 2.11.0 on the driver"
    assert {ray.verdict, torch.verdict} == {Verdict.FAULT}


def test_a_package_that_the_driver_lacks_is_a_fault() -> None:
    (check,) = judge_packages({**HERE, "timm": None}, DRIVER, driver=HERE)
    assert (check.verdict, check.detail) == (Verdict.FAULT, "timm: not installed")
