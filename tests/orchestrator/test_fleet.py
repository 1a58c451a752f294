"""Which workers fit on which machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.capacity import NOTHING, Capacity, Machine, lacking, worker_capacity
from orchestrator.fleet import (
    Vacancies,
    groups_for,
    has_labels,
    missing_room,
    place,
    usable_machines,
    using,
)
from orchestrator.spec import Resources

GPU = Resources(workers=4, gpus_per_worker=1)


def machine(
    name: str, cpus: float, gpus: float = 0, memory_gib: float = 0, **labels: str
) -> Machine:
    return Machine(Capacity(cpus, gpus, memory_gib), labels, name)


def test_workers_need_machines_with_labels_and_memory() -> None:
    resources = Resources(
        workers=2, gpus_per_worker=1, memory_gib_per_worker=16, labels={"zone": "a"}
    )
    roomy = machine("roomy", 8, 4, 64, zone="a")
    narrow, other = machine("narrow", 8, 4, 20, zone="a"), machine("other", 8, 4, 20, zone="a")
    elsewhere = machine("elsewhere", 8, 4, 64, zone="b")
    assert missing_room(resources, (roomy,), num_workers=2) is None
    assert place(resources, (narrow, other), num_workers=2) == {"narrow": 1, "other": 1}
    assert missing_room(resources, (narrow, elsewhere), num_workers=2) == (
        "needs 2 workers with 1 CPU, 1 GPU, 16 GiB each on machines labelled {'zone': 'a'}, "
        "but the cluster has 8 CPUs, 4 GPUs, 20 GiB, where 1 of them fit"
    )
    assert "the cluster has no such machine, where 0 of them fit" in str(
        missing_room(resources, (elsewhere,), num_workers=2)
    )


def test_stage_that_names_an_accelerator_runs_only_on_it() -> None:
    resources = Resources(gpus_per_worker=1, accelerator="H100")
    machines = tuple(
        Machine(Capacity(8, 8), {"ray.io/accelerator-type": kind}, name)
        for name, kind in (("a", "A100"), ("h", "H100"))
    )
    assert place(resources, machines, num_workers=1) == {"h": 1}
    assert "on machines labelled {'ray.io/accelerator-type': 'H100'}" in str(
        missing_room(resources, machines[:1], num_workers=1)
    )


def test_workers_without_gpus_stay_off_machines_with_gpus() -> None:
    gpu, plain = machine("gpu", 64, 8), machine("plain", 4)
    resources = Resources(cpus_per_worker=2)
    assert place(resources, (gpu, plain), num_workers=2) == {"plain": 2}
    busy = plain.using(Capacity(3, 0))
    assert place(resources, (gpu, busy), num_workers=2) is None
    assert place(resources, (gpu, plain), num_workers=3) == {"gpu": 3}
    assert place(resources, (gpu,), num_workers=1) == {"gpu": 1}


def test_group_gets_the_machine_that_it_fills_best() -> None:
    machines = (machine("large", 8, 8), machine("small", 8, 4), machine("tiny", 8, 2))
    assert place(GPU, machines, num_workers=4) == {"small": 4}
    assert place(GPU, machines, num_workers=9) == {"large": 8, "tiny": 1}
    assert place(GPU, machines, num_workers=15) is None


@pytest.mark.parametrize(
    ("wanted", "labels", "is_match"),
    [
        ("a", {"zone": "a"}, True),
        ("a", {}, False),
        ("!a", {"zone": "b"}, True),
        ("!a", {"zone": "a"}, False),
        ("!a", {}, True),
        ("in(a, b)", {"zone": "b"}, True),
        ("in(a,b)", {"zone": "c"}, False),
        ("!in(a,b)", {"zone": "c"}, True),
        ("!in(a,b)", {"zone": "a"}, False),
    ],
)
def test_labels_match_as_in_rays_selectors(
    wanted: str, labels: dict[str, str], is_match: bool
) -> None:
    assert has_labels(labels, {"zone": wanted}) is is_match


def test_search_without_gpus_takes_no_more_trials_than_fit_on_machines_without_gpus() -> None:
    vacancies, trial = Vacancies([machine("gpu", 64, 8), machine("plain", 8)]), Resources()
    assert vacancies.take(trial, num_workers=64, least=1) is None
    assert vacancies.take(trial, num_workers=8, least=1) == {"plain": 8}


def test_worker_with_more_than_half_of_a_gpu_shares_it_with_no_other() -> None:
    resources = Resources(gpus_per_worker=0.6)
    assert place(resources, (machine("two", 16, 2),), num_workers=2) == {"two": 2}
    assert place(resources, (machine("two", 16, 2),), num_workers=3) is None


def test_machines_without_a_free_gpu_are_counted() -> None:
    full = [machine(name, 8, 8).using(Capacity(1, 8)) for name in "abc"]
    assert "but the cluster has 3 x (7 CPUs, 0 GPUs), where 0 of them fit" in str(
        missing_room(GPU, full, num_workers=1)
    )


def test_fractions_of_a_gpu_add_up() -> None:
    resources = Resources(gpus_per_worker=0.1)
    assert place(resources, (machine("one", 16, 1),), num_workers=10) == {"one": 10}
    assert place(resources, (machine("one", 16, 1),), num_workers=11) is None


@pytest.mark.parametrize(
    ("cpus", "most", "groups"), [([3, 3, 3], 9, 1), ([3, 3, 4], 9, 2), ([8], 1, 1), ([1], 9, 1)]
)
def test_rests_of_several_machines_do_not_make_a_group(
    cpus: list[int], most: int, groups: int
) -> None:
    machines = tuple(machine(str(index), count) for index, count in enumerate(cpus))
    resources = Resources(workers=2, cpus_per_worker=2)
    assert groups_for(resources, machines, workers=2, most=most) == groups


def test_claimed_machines_are_those_that_become_free_first() -> None:
    full, half = machine("full", 8, 8).using(Capacity(8, 8)), machine("half", 8, 8)
    vacancies = Vacancies([full, half.using(Capacity(4, 4))])
    vacancies.claim(GPU, num_workers=8)
    assert vacancies.take(GPU, num_workers=1) is None
    assert place(GPU, vacancies.machines, num_workers=4) == {"half": 4}


def test_second_claim_for_the_same_machines_claims_nothing() -> None:
    busy = machine("busy", 16, 8).using(Capacity(1, 1))
    vacancies = Vacancies([busy, machine("other", 16, 4).using(Capacity(0, 3))])
    vacancies.claim(GPU, num_workers=8)
    vacancies.claim(GPU, num_workers=8)
    assert vacancies.take(GPU, num_workers=1) == {"other": 1}


machines_of_any_size = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8)),
    max_size=5,
)


@given(
    sizes=machines_of_any_size,
    num_workers=st.integers(1, 9),
    cpus=st.integers(1, 3),
    gpus=st.integers(0, 3),
)
def test_placement_fits_exactly_if_there_is_one(
    sizes: list[tuple[int, int, int, int]], num_workers: int, cpus: int, gpus: int
) -> None:
    machines = [
        Machine(Capacity(cpu, gpu), {}, str(index), Capacity(min(cpu, used), min(gpu, busy)))
        for index, (cpu, gpu, used, busy) in enumerate(sizes)
    ]
    resources = Resources(workers=num_workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    placement = place(resources, machines, num_workers=num_workers)
    usable = usable_machines(resources, machines, num_workers=num_workers)
    worker = worker_capacity(resources)
    slots = {one.name: _most_workers(one, worker) for one in usable}
    assert (placement is not None) == (sum(slots.values()) >= num_workers)
    assert (placement is None) == (
        missing_room(resources, machines, num_workers=num_workers) is not None
    )
    if placement is not None:
        assert sum(placement.values()) == num_workers
        assert all(count <= slots[name] for name, count in placement.items())
        after = using(machines, placement, worker)
        assert all(lacking(NOTHING, one.free) is None for one in after)


def _most_workers(machine: Machine, worker: Capacity) -> int:
    return max(count for count in range(20) if lacking(worker * count, machine.free) is None)
