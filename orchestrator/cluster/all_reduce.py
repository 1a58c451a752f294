"""Use GPUs, and sum tensors over several processes, as training does: one process a rank.

Imports no Ray. `checkup` starts the ranks on a cluster, `measure_here` on this machine.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from orchestrator.cluster.hardware import Hardware, describe_machine
from orchestrator.doctor.facts import AllReduceFacts, GpuFacts, Transfer

TIMEOUT_S = 120.0
NUM_BYTES = {"nccl": 2**28, "gloo": 2**22}
"""The tensor that is summed. Small ones show the latency and not the bandwidth."""
_TURNS = {"nccl": 20, "gloo": 3}
_BYTES_PER_NUMBER = 4


def use_gpus() -> Hardware:
    """Run a kernel on each GPU that this process sees. Raises an exception of torch if one cannot
    be used."""
    import torch  # noqa: PLC0415  two seconds

    num_gpus = torch.cuda.device_count()
    if not num_gpus:
        raise RuntimeError("torch finds no GPU")
    for index in range(num_gpus):
        one = torch.ones(1024, device=f"cuda:{index}")
        if float((one + one).sum()) != 2 * 1024:
            raise RuntimeError(f"GPU {index} adds wrongly")
    return describe_machine(uses_gpu=True)


def free_address() -> str:
    """Return HOST:PORT of this machine for rank 0."""
    with socket.socket() as free:
        free.bind(("", 0))
        return f"{_own_host()}:{free.getsockname()[1]}"


def _own_host() -> str:
    """The address under which other machines reach this one."""
    from ray.util import get_node_ip_address  # noqa: PLC0415  only on a cluster

    return str(get_node_ip_address())


def all_reduce(backend: str, address: str, *, rank: int, num_ranks: int) -> float:
    """Sum a tensor over all ranks, several times. Returns the seconds of one sum.

    Raises an exception of torch if the ranks cannot connect, or RuntimeError if the sum is wrong.
    """
    import torch  # noqa: PLC0415  two seconds
    from torch import distributed  # noqa: PLC0415

    device = "cuda" if backend == "nccl" else "cpu"
    distributed.init_process_group(
        backend,
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        numbers = torch.ones(NUM_BYTES[backend] // _BYTES_PER_NUMBER, device=device)
        distributed.all_reduce(numbers)  # the first one connects the ranks
        if float(numbers[0]) != num_ranks or float(numbers[-1]) != num_ranks:
            raise RuntimeError(f"the sum over {num_ranks} ranks is {float(numbers[0]):g}")
        return _seconds_per_turn(numbers, _TURNS[backend])
    finally:
        distributed.destroy_process_group()


def _seconds_per_turn(numbers: object, turns: int) -> float:
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    assert isinstance(numbers, torch.Tensor)
    numbers.zero_()
    start_s = time.monotonic()
    for _ in range(turns):
        distributed.all_reduce(numbers)
    numbers[0].item()  # wait for the GPU
    return (time.monotonic() - start_s) / turns


def transfer_of(backend: str, num_ranks: int, took_s: float) -> Transfer:
    """Return what each rank sends in one all-reduce: 2 (n - 1) / n of the tensor, in a ring."""
    return Transfer(round(NUM_BYTES[backend] * 2 * (num_ranks - 1) / num_ranks), took_s)


def examine_gpus_here() -> tuple[GpuFacts, AllReduceFacts | None]:
    """Test the GPUs of this machine, and NCCL between them. Takes half a minute if it has some."""
    listed = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if not listed:
        return GpuFacts(0, 0), None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            gpus = gpu_facts(listed, [pool.submit(use_gpus).result()], [])
        except Exception as err:  # noqa: BLE001  torch raises many types
            return gpu_facts(listed, [], [first_line(err)]), None
    return gpus, _reduce_here(gpus.tested)


def gpu_facts(listed: int, found: Sequence[Hardware], errors: Sequence[str]) -> GpuFacts:
    """Sum up what the processes of a machine found on its GPUs."""
    names = tuple(name for hardware in found for name in hardware.gpus.values())
    one = found[0] if found else Hardware("", "", 0, None)
    return GpuFacts(
        listed=listed,
        tested=len(names) + len(errors),
        names=names,
        errors=tuple(errors),
        driver=one.driver,
        cuda=one.cuda,
        nccl=one.nccl,
    )


def _reduce_here(num_ranks: int) -> AllReduceFacts:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with ProcessPoolExecutor(num_ranks, multiprocessing.get_context("spawn")) as pool:
        ranks = [pool.submit(_reduce_on_gpu, address, rank, num_ranks) for rank in range(num_ranks)]
        try:
            took_s = max(rank.result(timeout=2 * TIMEOUT_S) for rank in ranks)
        except Exception as err:  # noqa: BLE001  torch raises many types
            return AllReduceFacts("nccl", num_ranks, error=first_line(err))
    return AllReduceFacts("nccl", num_ranks, transfer_of("nccl", num_ranks, took_s))


def _reduce_on_gpu(address: str, rank: int, num_ranks: int) -> float:
    import torch  # noqa: PLC0415

    torch.cuda.set_device(rank)
    return all_reduce("nccl", address, rank=rank, num_ranks=num_ranks)


def first_line(err: BaseException) -> str:
    with suppress(IndexError):
        return str(err).strip().splitlines()[0]
    return type(err).__name__
