"""The network computes the same function when scripted, traced by torch.fx, exported, run by
onnxruntime or compiled."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from timm.layers import create_feature_extractor
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from cat_model import Cat, CatBackbone, CatConfig
from cat_model.attention import Cpsa

CONFIG = CatConfig(img_size=64, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
SMALL = CatConfig(img_size=56, embed_dim=16, depths=(1, 1), num_heads=(1, 2))
SIZES = [(64, 64), (224, 224), (70, 33)]
"""Image sizes whose first map has padded windows, whole windows, or odd sides; the last maps fit
within a window or have one window."""
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="Inductor needs a C++ compiler",
)
jit_is_deprecated = pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")
from_elsewhere = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


keeps_the_traced_size = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


@pytest.fixture(scope="module")
def classifier() -> Cat:
    torch.manual_seed(0)
    return Cat(CONFIG, num_classes=5).eval()


@pytest.fixture(scope="module")
def backbone() -> CatBackbone:
    torch.manual_seed(0)
    return CatBackbone(CONFIG).eval()


def images(height: int, width: int, *, batch: int = 2) -> Tensor:
    return torch.randn(
        batch, 3, height, width, generator=torch.Generator().manual_seed(height + width)
    )


def _timm_features() -> nn.Module:
    model: nn.Module = timm.create_model(
        "cat_tiny", features_only=True, out_indices=(0, 1), **SMALL.to_dict()
    )
    return model.eval()


def _backbone() -> nn.Module:
    return CatBackbone(SMALL, out_indices=(0, 1)).eval()


def _checkpointed() -> Cat:
    model = Cat(SMALL, num_classes=5).eval()
    model.set_grad_checkpointing()
    return model


def _wrapped() -> nn.Module:
    """A network whose attention calls a layer instead of reading its weights."""
    model = Cat(SMALL, num_classes=5).eval()
    attention = model.get_submodule("stages.0.blocks.0.cpsa.attn")
    attention.add_module("qkv", nn.Sequential(attention.get_submodule("qkv")))
    return model


def _dropping() -> nn.Module:
    return Cat(
        replace(SMALL, drop_path_rate=0.2, drop_rate=0.1, attn_drop_rate=0.1), num_classes=5
    ).train()


def assert_same(ours: object, expected: object, *, atol: float = 2e-6) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@jit_is_deprecated
def test_scripted_model_is_equal_at_every_size(classifier: Cat) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(classifier), buffer)
    scripted = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for size in SIZES:
            assert_same(scripted(images(*size)), classifier(images(*size)))


@jit_is_deprecated
def test_scripted_model_trains_like_in_python(classifier: Cat) -> None:
    gradients = []
    for model in (classifier, torch.jit.script(classifier)):
        classifier.zero_grad()
        model(images(64, 64)).square().sum().backward()
        gradients.append([p.grad for p in classifier.parameters()])
    assert_same(*gradients, atol=1e-5)


@from_elsewhere
@keeps_the_traced_size
def test_traced_model_is_equal_at_the_traced_size(classifier: Cat) -> None:
    """A second trace without gradients checks the trace, as torch.jit.trace does by default."""
    for size in SIZES:
        traced = torch.jit.trace(classifier, images(*size))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert_same(traced(images(*size) / 2), classifier(images(*size) / 2))


@from_elsewhere
@keeps_the_traced_size
@pytest.mark.parametrize("make", [_timm_features, _backbone, _checkpointed, _wrapped, _dropping])
def test_every_model_passes_the_check_of_its_trace(make: Callable[[], nn.Module]) -> None:
    model = make()
    traced = torch.jit.trace(model, images(70, 33))  # type: ignore[no-untyped-call]
    if not model.training:
        assert_same(list(traced(images(70, 33) / 2)), list(model(images(70, 33) / 2)))


@from_elsewhere
@keeps_the_traced_size
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trace_without_gradients_passes_its_check(mode: Callable[[], Any]) -> None:
    model = _checkpointed()
    with mode():
        traced = torch.jit.trace(model, images(70, 33))  # type: ignore[no-untyped-call]
        assert_same(traced(images(70, 33) / 2), model(images(70, 33) / 2))


@from_elsewhere
@keeps_the_traced_size
def test_trace_trains_like_its_model() -> None:
    model = _checkpointed()
    traced = torch.jit.trace(model, images(56, 56))  # type: ignore[no-untyped-call]
    gradients = []
    for runs in (model, traced):
        model.zero_grad()
        runs(images(56, 56)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert_same(*gradients, atol=1e-5)


@jit_is_deprecated
@from_elsewhere
def test_fx_finds_every_group_and_its_graph_can_be_scripted(classifier: Cat) -> None:
    nodes = [f"stages.{i}.blocks.0.cpsa.attn" for i in range(4)]
    extractor = create_feature_extractor(classifier, [*nodes, "head.fc"])
    with torch.no_grad():
        for size in SIZES:
            outs = extractor(images(*size))
            assert_same(outs["head.fc"], classifier(images(*size)))
            assert [outs[node].shape[-1] for node in nodes] == [16, 32, 64, 128]
        scripted = torch.jit.script(extractor)
        assert_same(scripted(images(64, 64))["head.fc"], classifier(images(64, 64)))


@pytest.mark.parametrize("model", ["classifier", "backbone"])
def test_exported_model_takes_any_batch_size(model: str, request: pytest.FixtureRequest) -> None:
    module: nn.Module = request.getfixturevalue(model)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (images(64, 64),), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        for size in (1, 5):
            assert_same(
                program.module()(images(64, 64, batch=size)), module(images(64, 64, batch=size))
            )


def test_one_exported_program_takes_images_of_many_sizes(backbone: CatBackbone) -> None:
    """Uses sizes above 224 pixels, where every map is wider than a window."""
    free = torch.export.Dim.AUTO
    program = torch.export.export(
        backbone, (images(300, 420),), dynamic_shapes=({0: free, 2: free, 3: free},)
    )
    with torch.no_grad():
        for size in ((333, 500), (448, 256), (240, 272)):
            assert_same(program.module()(images(*size)), backbone(images(*size)))


@from_elsewhere
@pytest.mark.parametrize("model", ["classifier", "backbone"])
def test_onnxruntime_returns_the_same_numbers(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    module: nn.Module = request.getfixturevalue(model)
    program = torch.onnx.export(
        module, (images(64, 64),), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
    )
    assert program is not None
    program.save(tmp_path / "cat.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "cat.onnx", providers=["CPUExecutionProvider"]
    )
    given_images = images(64, 64, batch=3)
    outs = session.run(None, {session.get_inputs()[0].name: given_images.numpy()})
    with torch.no_grad():
        expected = module(given_images)
    for ours, theirs in zip(
        outs, expected if isinstance(expected, tuple) else (expected,), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=2e-5)


@from_elsewhere
def test_dynamo_has_one_graph_for_many_image_sizes(backbone: CatBackbone) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(backbone, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for size in ((300, 420), (333, 500), (480, 640), (512, 512), (448, 672)):
            assert_same(compiled(images(*size, batch=1)), backbone(images(*size, batch=1)))
    assert counter.frame_count == 1


@needs_compiler
@from_elsewhere
@pytest.mark.parametrize(
    "precision",
    [
        pytest.param("fp32", marks=pytest.mark.slow),
        pytest.param("bf16", marks=pytest.mark.stress),
    ],
)
def test_inductor_infers_and_trains_like_eager(precision: str) -> None:
    """The network has two stages of whole windows; the last has one window."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Cat(
        CatConfig(img_size=56, embed_dim=16, depths=(1, 1), num_heads=(1, 2)), num_classes=5
    ).eval()
    outs = []
    for runs in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                inferred = runs(images(56, 56))
            trained = runs(images(56, 56))
        trained.float().square().sum().backward()
        outs.append((inferred.float(), trained.float(), [p.grad for p in model.parameters()]))
    assert_same(*outs, atol=1e-5 if precision == "fp32" else 0.02)


@needs_compiler
@from_elsewhere
def test_compiled_attention_with_padded_strides_is_equal() -> None:
    """Pads strides like GPUs do by default, where rows of a tensor are longer than 1024: here 80
    windows of 49 positions.

    Autocast on a GPU computes norms in float32.
    """
    torch._dynamo.reset()
    torch.manual_seed(0)
    norm, cpsa = (
        nn.LayerNorm(8),
        Cpsa(window=7, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0),
    )

    def run(x_BHWC: Tensor) -> Tensor:  # noqa: N803
        normed = norm(x_BHWC)
        with torch.autocast("cpu", torch.bfloat16):
            mixed: Tensor = cpsa(normed)
        return mixed.float()

    x_BHWC = torch.randn(2, 50, 68, 8)  # noqa: N806
    with torch.no_grad(), torch._inductor.config.patch(disable_padding_cpu=False):
        assert_same(torch.compile(run)(x_BHWC), run(x_BHWC), atol=0.02)
