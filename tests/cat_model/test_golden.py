"""Nine golden vectors: our network reproduces the reference's values, activations, gradients and
optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cat_model import Cat, CatBackbone, from_reference
from cat_model.weights.layouts import reference_name
from cat_model.windows import merge
from tests.cat_model.golden import ABSMAX, TAGS, Vector, load_vector, sample_indices

FLOAT64_GATE = 1e-6
FLOAT32_LOGITS_GATE = 4e-6
FLOAT32_GATE = 4e-5
GRADIENT_GATE = 1e-4


@dataclass(frozen=True)
class Run:
    """A forward and backward pass in float32: all compared tensors, in the reference's names and
    layouts."""

    outputs: dict[str, Tensor]
    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    loss: float


def run(tag: str) -> Run:
    vector = load_vector(tag)
    model = build(vector)
    activations: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if (act := f"act/{_reference_module(name)}") in vector.statistics("act"):
            module.register_forward_hook(_recorder(model, act, activations))
    outputs = as_tuple(model(vector.image()))
    loss = vector.loss(outputs)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {
        f"grad/{reference_name(name)}": p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    if "grad/ape" in gradients and vector.is_backbone:
        gradients["grad/ape"] = gradients["grad/ape"].permute(0, 3, 1, 2)
    names = vector.statistics("out")
    return Run(dict(zip(names, outputs, strict=True)), activations, gradients, loss.item())


def build(vector: Vector) -> Cat | CatBackbone:
    return from_reference(vector.kwargs, vector.state_dict(), backbone=vector.is_backbone).eval()


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_all_nine_vectors_exist() -> None:
    assert len(TAGS) == 9


@pytest.mark.parametrize("tag", TAGS)
def test_float64_outputs_match_the_golden_values(tag: str) -> None:
    vector = load_vector(tag)
    with torch.no_grad():
        outputs = as_tuple(build(vector).double()(vector.image().double()))
    for (name, sample), output in zip(vector.samples("out").items(), outputs, strict=True):
        np.testing.assert_allclose(
            sampled(name, output, len(sample)), sample, rtol=0, atol=FLOAT64_GATE
        )
    if not vector.is_backbone:
        np.testing.assert_allclose(
            outputs[0].numpy(), vector.arrays["logits"], rtol=0, atol=FLOAT64_GATE
        )


@pytest.mark.parametrize("tag", TAGS)
def test_float32_outputs_activations_and_gradients_match(tag: str) -> None:
    vector, ours = load_vector(tag), run(tag)
    gate = FLOAT32_GATE if vector.is_backbone else FLOAT32_LOGITS_GATE
    compare(vector, "out", ours.outputs, gate=gate)
    compare(vector, "act", ours.activations, gate=FLOAT32_GATE)
    compare(vector, "grad", ours.gradients, gate=GRADIENT_GATE, is_relative=True)
    assert ours.loss == pytest.approx(float(vector.arrays["loss"]), abs=1e-6)
    if not vector.is_backbone:
        logits = ours.outputs["logits"].detach().numpy()
        np.testing.assert_allclose(
            logits, vector.arrays["logits"], rtol=0, atol=FLOAT32_LOGITS_GATE
        )
    else:
        shapes = [tuple(vector.arrays[f"shape.{name}"]) for name in ours.outputs]
        assert [tuple(output.shape) for output in ours.outputs.values()] == shapes


@pytest.mark.parametrize("tag", TAGS)
def test_float32_inference_matches_the_golden_values(tag: str) -> None:
    """Without gradients, attention uses another form (`cat_model.attention`)."""
    vector = load_vector(tag)
    with torch.no_grad():
        outputs = as_tuple(build(vector)(vector.image()))
    gate = FLOAT32_GATE if vector.is_backbone else FLOAT32_LOGITS_GATE
    compare(vector, "out", dict(zip(vector.statistics("out"), outputs, strict=True)), gate=gate)


def test_five_adamw_steps_match_the_golden_values() -> None:
    vector = load_vector("toy")
    model = build(vector).double()
    image, labels = vector.image().double(), vector.labels(vector.kwargs["num_classes"])
    optimizer = torch.optim.AdamW(decay_groups(model, weight_decay=0.05), lr=1e-3)
    losses, norms = [], []
    for _ in range(5):
        loss = functional.cross_entropy(model(image), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 5.0).item())
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, vector.arrays["adamw.loss"], rtol=1e-5)
    np.testing.assert_allclose(norms, vector.arrays["adamw.gradnorm"], rtol=1e-5)
    # two parameters with a true gradient of zero follow rounding noise, and the logits depend on
    # them
    np.testing.assert_allclose(
        model(image).detach().numpy(), vector.arrays["adamw.logits"], rtol=0, atol=1e-5
    )
    trained = {f"adamw/{reference_name(name)}": p for name, p in model.named_parameters()}
    compare(vector, "adamw", trained, gate=1e-5)


def decay_groups(model: Cat | CatBackbone, *, weight_decay: float) -> list[dict[str, Any]]:
    excluded = model.no_weight_decay()
    is_decayed = {name: p.ndim > 1 and name not in excluded for name, p in model.named_parameters()}
    decayed = [p for name, p in model.named_parameters() if is_decayed[name]]
    others = [p for name, p in model.named_parameters() if not is_decayed[name]]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def compare(
    vector: Vector,
    group: str,
    ours: Mapping[str, Tensor],
    *,
    gate: float,
    is_relative: bool = False,
) -> None:
    """Each tensor of `group` agrees in its statistics and samples, except parameters whose true
    gradient is zero."""
    samples, statistics = vector.samples(group), vector.statistics(group)
    assert samples.keys() == statistics.keys()
    dead = {f"{group}/{name}" for name in vector.description["dead_params"]}
    for name in statistics.keys() - dead:
        atol = gate * (statistics[name][ABSMAX] if is_relative else 1.0)
        sample = sampled(name, ours[name], len(samples[name]))
        np.testing.assert_allclose(sample, samples[name], rtol=0, atol=atol, err_msg=name)
        mean_std_absmax = statistics_of(ours[name])
        np.testing.assert_allclose(
            mean_std_absmax, statistics[name][:3], rtol=0, atol=atol, err_msg=name
        )


def statistics_of(tensor: Tensor) -> NDArray[np.float64]:
    values = tensor.detach().double().numpy()
    return np.array([values.mean(), values.std(), np.abs(values).max()])


def sampled(name: str, tensor: Tensor, count: int) -> NDArray[np.float64]:
    values: NDArray[np.float64] = tensor.detach().double().flatten().numpy()
    return values[sample_indices(name, values.size, count)]


def _reference_module(name: str) -> str:
    return reference_name(f"{name}.weight").removesuffix(".weight")


def _recorder(model: Cat | CatBackbone, name: str, activations: dict[str, Tensor]) -> Any:
    """A hook that stores a module's output in the reference's layout: in raster order, not in
    windows."""

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if "_blocks." in name:
            stage = int(name.split(".")[1])
            height, width = (-(-side // 2**stage) for side in model.config.map_hw)
            output = merge(output, height, width)
        elif name == "act/patch_embed" and isinstance(model, CatBackbone):
            output = output.permute(0, 3, 1, 2)
        activations[name] = output.detach()

    return record
