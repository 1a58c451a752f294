"""Adapters, quantised and pruned layers and hooks, which users put in place of linear layers or
attach to them, take effect."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as weight_norm_by_hook

from cat_model import Cat, CatBackbone, CatConfig
from cat_model.attention import Cpsa, Ipsa

CONFIG = CatConfig(img_size=56, embed_dim=16, depths=(1, 1), num_heads=(1, 2))
SIZES = [(56, 56), (50, 70), (20, 12)]
"""Image sizes whose maps have whole windows or one window, padded windows, or fit within a
window."""
from_elsewhere = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Wrapper(nn.Module):
    """Wraps a layer like an adapter: it has neither `weight` nor `bias`."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out


class Lora(Wrapper):
    """A frozen layer with a learned update of rank 2."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.requires_grad_(False))
        self.down = nn.Parameter(torch.randn(2, base.in_features) * 0.1)
        self.up = nn.Parameter(torch.randn(base.out_features, 2) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.down.t() @ self.up.t()
        return out


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def make_model() -> Cat:
    """A model with weights large enough for every layer to matter."""
    torch.manual_seed(0)
    model = Cat(CONFIG, num_classes=3).eval()
    for layer in linears(model).values():
        nn.init.normal_(layer.weight, std=0.2)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.2)
    return model


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def replace_linears(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """A copy of `model` in which another layer replaces each linear layer."""
    replaced = copy.deepcopy(model)
    for name, layer in linears(replaced).items():
        parent, _, child = name.rpartition(".")
        setattr(replaced.get_submodule(parent), child, make(layer))
    return replaced


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def assert_same(ours: object, expected: object, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("size", SIZES)
def test_calling_layers_equals_reading_their_weights(size: tuple[int, int]) -> None:
    plain = make_model()
    wrapped = replace_linears(plain, Wrapper)
    gradients = []
    for model in (plain, wrapped):
        logits = model(images(*size))
        logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    with torch.no_grad():
        assert_same(wrapped(images(*size)), plain(images(*size)))
    scale = max(gradient.abs().max().item() for gradient in gradients[0] if gradient is not None)
    assert_same(gradients[1], gradients[0], atol=1e-5 * scale)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_adapter_gets_gradients(size: tuple[int, int], checkpoints: bool) -> None:
    model = replace_linears(make_model(), Lora).train()
    for trunk in (module for module in model.modules() if isinstance(module, Cat)):
        trunk.set_grad_checkpointing(checkpoints)
    model(images(*size)).square().sum().backward()
    without = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    assert without == []
    values = model.get_submodule("stages.0.blocks.0.cpsa.attn.qkv")
    assert isinstance(values, Lora)
    assert values.up.grad is not None
    assert values.up.grad.abs().max() > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_hooks_on_every_linear_layer_run(register: str, size: tuple[int, int]) -> None:
    model, fired = make_model(), set[str]()
    plain = model(images(*size)).detach()
    for name, layer in linears(model).items():
        getattr(layer, register)(lambda *_, name=name: fired.add(name))
    logits = model(images(*size))
    logits.sum().backward()
    assert fired == linears(model).keys()
    assert_same(logits.detach(), plain)


def test_forward_replaced_on_a_layer_instance_is_called() -> None:
    """Replaces `forward` on the instance, like offloading to another device does."""
    model, calls = make_model(), list[nn.Module]()

    def noting(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            calls.append(layer)
            return nn.Linear.forward(layer, x)

        return forward

    for layer in linears(model).values():
        layer.forward = noting(layer)  # type: ignore[method-assign, assignment]
    model(images(50, 70))
    assert set(calls) == set(linears(model).values())


@pytest.mark.parametrize("size", SIZES)
def test_subclass_of_the_linear_layer_is_called(size: tuple[int, int]) -> None:
    def doubling(layer: nn.Linear) -> nn.Linear:
        other = Doubling(layer.in_features, layer.out_features, bias=layer.bias is not None)
        other.load_state_dict(layer.state_dict())
        return other

    plain = make_model()
    doubled = replace_linears(plain, doubling)
    with torch.no_grad():
        for layer in linears(plain).values():
            for parameter in layer.parameters():
                parameter.mul_(2)
        assert_same(doubled(images(*size)), plain(images(*size)))


@from_elsewhere
@pytest.mark.parametrize(
    "reparametrise",
    [weight_norm_by_hook, parametrizations.weight_norm, parametrizations.spectral_norm],
)
def test_parametrised_layers_get_gradients(reparametrise: Callable[[nn.Linear], nn.Linear]) -> None:
    model = replace_linears(make_model(), reparametrise).train()
    for size in SIZES:
        model.zero_grad()
        model(images(*size)).square().sum().backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_pruned_layers_compute_and_learn() -> None:
    def pruned_by_a_third(layer: nn.Linear) -> nn.Module:
        return prune.l1_unstructured(layer, "weight", amount=0.3)  # type: ignore[no-any-return, no-untyped-call]

    model = replace_linears(make_model(), pruned_by_a_third)
    for size in SIZES:
        model.zero_grad()
        model(images(*size)).square().sum().backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    pruned = [model(images(*size)).detach() for size in SIZES]
    for layer in linears(model).values():
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    assert_same([model(images(*size)).detach() for size in SIZES], pruned)


@from_elsewhere
def test_quantised_model_is_close_also_when_scripted() -> None:
    plain = make_model()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear})  # type: ignore[no-untyped-call]
    assert linears(quantised) == {}
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(quantised), buffer)
    scripted = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for size in SIZES:
            logits = plain(images(*size))
            assert_same(quantised(images(*size)), logits, atol=0.1 * logits.abs().max().item())
            assert_same(scripted(images(*size)), quantised(images(*size)))


@from_elsewhere
def test_script_uses_the_layers_present_at_scripting() -> None:
    adapted = replace_linears(make_model(), Lora)
    scripted = torch.jit.script(adapted)
    with torch.no_grad():
        for size in SIZES:
            assert_same(scripted(images(*size)), adapted(images(*size)))


def test_adapters_and_attention_dropout_work_at_any_size() -> None:
    config = CatConfig(**{**CONFIG.to_dict(), "attn_drop_rate": 0.2, "drop_rate": 0.1})  # type: ignore[arg-type]
    backbone = replace_linears(CatBackbone(config, out_indices=(0, 1)), Lora).train()
    for size in SIZES:
        sum(x.square().sum() for x in backbone(images(*size))).backward()


def test_weights_are_read_again_after_hooks_are_removed() -> None:
    ipsa = Ipsa(
        16, num_heads=2, window=7, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0
    )
    cpsa = Cpsa(window=7, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0)
    for attention in (ipsa, cpsa):
        assert attention.reads_weights
        handle = attention.qkv.register_forward_hook(lambda *_: None)
        assert not attention.reads_weights
        handle.remove()
        assert attention.reads_weights
