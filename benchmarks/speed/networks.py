"""Makes the networks to compare, and a step of each: a forward pass, or a training step.

A training step uses AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.settings import DTYPES, Case, Run
from cat_model import CONFIGS
from cat_model.complexity import complexity

NUM_CLASSES = 1000
_COMPILE_MODES = {"compiled": "default", "graphs": "reduce-overhead"}


@dataclass(frozen=True)
class Network:
    """A classifier with its default drop path, and its optimizer, for all cases."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    flops_per_image: int
    """FLOPs of a forward pass; a multiply-add is two."""

    def held_bytes(self, *, is_training: bool) -> int:
        """Bytes of weights and buffers, and in training of the optimizer's state."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if is_training:
            tensors += [
                x
                for state in self.optimizer.state.values()
                for x in state.values()
                if isinstance(x, Tensor)
            ]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Batch:
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Entry:
    """A network in a case, run in one way."""

    network: Network
    run: Run
    case: Case
    body: Callable[[], None]

    def prepare(self) -> None:
        is_training = self.case.mode == "train"
        self.network.model.train(is_training)
        self.network.model.set_grad_checkpointing(self.run == "checkpointed")  # type: ignore[operator]  # of timm

    def step(self) -> None:
        self.body()


def make_network(name: str, *, img_size: int, device: torch.device) -> Network:
    torch.manual_seed(0)
    with device:
        model = _make_model(name, img_size)
    flops = _flops_of_cat(name, img_size) if name in CONFIGS else _flops_of_rival(name, img_size)
    return Network(name, model, torch.optim.AdamW(model.parameters(), lr=1e-4), flops)


def make_batch(batch_size: int, *, img_size: int, device: torch.device) -> Batch:
    images = torch.randn(batch_size, 3, img_size, img_size, device=device)
    return Batch(images, torch.randint(NUM_CLASSES, (batch_size,), device=device))


def make_entry(network: Network, run: Run, case: Case, batch: Batch) -> Entry:
    model: Callable[[Tensor], Tensor] = network.model
    if run in _COMPILE_MODES:
        model = torch.compile(network.model, mode=_COMPILE_MODES[run], dynamic=False)

    def forward() -> None:
        with torch.no_grad(), _precision(case, batch):
            model(batch.images)

    def train() -> None:
        with _precision(case, batch):
            loss = functional.cross_entropy(model(batch.images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        network.optimizer.step()
        network.optimizer.zero_grad()

    return Entry(network, run, case, train if case.mode == "train" else forward)


def _precision(case: Case, batch: Batch) -> AbstractContextManager[object]:
    is_reduced = case.precision != "fp32"
    return torch.autocast(
        batch.images.device.type, DTYPES[case.precision] if is_reduced else None, enabled=is_reduced
    )


def _make_model(name: str, img_size: int) -> nn.Module:
    """Make a model; `img_size` is passed only to models that are built for one image size."""
    pretrained = timm.get_pretrained_cfg(name)
    is_sized = name in CONFIGS or (pretrained is not None and pretrained.fixed_input_size)
    model: nn.Module = timm.create_model(
        name, num_classes=NUM_CLASSES, **({"img_size": img_size} if is_sized else {})
    )
    return model


def _flops_of_cat(name: str, img_size: int) -> int:
    """FLOPs of the reference's arithmetic, even where our network takes shortcuts.

    Rates are then for the same work.
    """
    counted = complexity(CONFIGS[name], image_hw=(img_size, img_size), num_classes=NUM_CLASSES)
    return 2 * counted.conventions["products"]


def _flops_of_rival(name: str, img_size: int) -> int:
    """FLOPs of convolutions, linear layers and attention, by torch's counter.

    It runs on the meta device, so it takes no memory and no computation.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        _make_model(name, img_size).eval()(torch.empty(1, 3, img_size, img_size))
    return int(counter.get_total_flops())
