"""Modules are compiled if there is a compiler; otherwise the stage reports it and continues."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from orchestrator.contract import Params
from pipelines.training.compiling import compile_in_place
from tests.pipelines.openmmlab.harness import Recorder, make_context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch
@pytest.mark.parametrize(
    ("compiler", "is_compiled"), [(sys.executable, True), ("no-such-compiler", False)]
)
def test_modules_are_compiled_if_a_compiler_exists(
    compiler: str, is_compiled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", compiler)  # any program: nothing is compiled before the first call
    recorder, modules = Recorder(tmp_path), [nn.Linear(2, 2), nn.Linear(2, 2)]
    compile_in_place(modules, make_context(recorder, Params(), tmp_path))
    assert [module._compiled_call_impl is not None for module in modules] == [is_compiled] * 2
    assert len(recorder.events) == (not is_compiled)


class _ReadTwice(nn.Module):
    """Rounds a float32 copy of x twice: as it is, and as a stack of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(49, 49)

    def forward(self, x_BPNC: Tensor) -> Tensor:  # noqa: N803
        x_BCPN = self.norm(x_BPNC).permute(0, 3, 1, 2).contiguous()  # noqa: N806
        with torch.autocast("cpu", torch.bfloat16):
            q_vPN = self.linear(x_BCPN).flatten(0, 1)  # noqa: N806
            x_vPN = x_BCPN.flatten(0, 1).to(q_vPN.dtype)  # noqa: N806
            return torch.bmm(torch.bmm(q_vPN, x_vPN.transpose(1, 2)).softmax(-1), x_vPN)


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # raised inside torch
def test_compiling_in_place_does_not_pad_strides(tmp_path: Path) -> None:
    """The compiler pads strides on GPUs, and on a CPU if configured to; the rows of this copy have
    80 * 49 > 1024 elements."""
    torch.manual_seed(0)
    module, x_BPNC = _ReadTwice(), torch.randn(2, 80, 49, 8)  # noqa: N806
    with torch.no_grad(), torch._inductor.config.patch(disable_padding_cpu=False):
        expected = cast("Tensor", module(x_BPNC))
        assert compile_in_place([module], make_context(Recorder(tmp_path), Params(), tmp_path))
        torch.testing.assert_close(module(x_BPNC), expected, rtol=0, atol=0.1)
