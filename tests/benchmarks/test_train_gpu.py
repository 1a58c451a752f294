"""`python -m benchmarks.train_gpu`, small and on a CPU: what it prints and writes, when it stops.

No test asserts a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.train_gpu import data_sheet, main
from benchmarks.training import step as steps
from benchmarks.training.shares import GROUPS, IDLE, OTHER, group_of, shares_of
from benchmarks.training.step import Case, Step, forward_flops
from cat_model import CONFIGS, Cat

ROOT = Path(__file__).parents[2]
TOY = ["--device", "cpu", "--models", "cat_tiny", "--img-size", "32", "--no-compile"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The printed text and the JSON document of a run."""
    path = tmp_path_factory.mktemp("train") / "train.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_gpu",
        *TOY,
        "--batch-sizes",
        "1",
        "2",
        "--json",
        str(path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_each_batch_size_is_measured_and_one_profiled(
    toy: tuple[str, dict[str, Any]],
) -> None:
    out, document = toy
    results = document["results"]
    assert [one["case"]["batch_size"] for one in results] == [1, 2]
    fastest = max(results, key=lambda one: float(one["images_per_s"]["median"]))
    assert [one for one in results if "shares" in one] == [fastest]
    assert set(fastest["shares"]) == set(GROUPS)
    assert fastest["shares"]["product"] > 0
    assert out.count("cat_tiny") == 3
    assert document["skipped"] == []


def test_rates_follow_from_the_counts(toy: tuple[str, dict[str, Any]]) -> None:
    document = toy[1]
    for one in document["results"]:
        flops = (
            3
            * forward_flops(Case("cat_tiny", 1, 32, is_compiled=False))
            * one["images_per_s"]["median"]
        )
        assert one["flops_per_s"] == pytest.approx(flops)
        assert one["mfu_of_matmul"] == pytest.approx(
            flops / document["roofs"]["matmul_flops_per_s"]
        )
        assert one["mfu_of_data_sheet"] is None
        # Weights, AdamW's two averages, and gradients of nearly all weights, 4 bytes each.
        num_params = sum(
            parameter.numel()
            for parameter in Cat(CONFIGS["cat_tiny"], num_classes=1000).parameters()
        )
        assert one["peak_bytes"] > 15 * num_params


def test_a_forward_pass_is_counted_as_published() -> None:
    assert forward_flops(Case("cat_tiny", 8, 224, is_compiled=False)) == pytest.approx(
        2 * 2.770e9, rel=1e-3
    )


def test_no_case_starts_after_the_minutes_are_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.json"
    assert main([*TOY, "--batch-sizes", "1", "2", "--minutes", "0", "--json", str(path)]) == 1
    assert capsys.readouterr().out.count("skipped: out of time") == 2
    assert [one["reason"] for one in json.loads(path.read_text())["skipped"]] == [
        "out of time",
        "out of time",
    ]


def test_out_of_memory_skips_a_case_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = steps.Step.__call__

    def out_of_memory_at_2(self: Step) -> None:
        if len(self.x_BCHW) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        call(self)

    monkeypatch.setattr(steps.Step, "__call__", out_of_memory_at_2)
    assert main([*TOY, "--batch-sizes", "2", "1"]) == 0
    out = capsys.readouterr().out
    assert "cat_tiny       2  eager     skipped: out of memory" in out
    assert out.count("cat_tiny       1") == 2


def test_a_step_changes_every_weight() -> None:
    step = Step(Case("cat_tiny", 2, 32, is_compiled=False), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in step.model.named_parameters()}
    step()
    same = {
        name for name, tensor in step.model.named_parameters() if torch.equal(tensor, before[name])
    }
    assert not {name for name in same if not name.endswith(("bias", "bias_table"))}
    assert all(parameter.grad is None for parameter in step.model.parameters())


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "product"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "product"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64>", "product"),
        (
            "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)",
            "attention",
        ),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        (
            "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>",
            "optimizer, clip",
        ),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda(...)>", "copy"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", OTHER),
        (
            (
                "void at::native::(anonymous "
                "namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>"
            ),
            OTHER,
        ),
        ("triton_per_fused_addmm_native_layer_norm_view_3", OTHER),
        ("triton_tem_fused_mm_1", "product"),
        ("aten::addmm", "product"),
        ("aten::copy_", "copy"),
    ],
)
def test_kernels_are_grouped_by_what_they_do(name: str, group: str) -> None:
    assert group_of(name) == group


def test_shares_refer_to_the_whole_step() -> None:
    found = shares_of([("aten::mm", 0.5), ("aten::mm", 0.1), ("aten::copy_", 0.2)], total_s=1.0)
    assert (found["product"], found["copy"], found[IDLE]) == pytest.approx((0.6, 0.2, 0.2))


def test_the_data_sheet_matches_the_device() -> None:
    assert data_sheet("NVIDIA H100 80GB HBM3") == data_sheet("NVIDIA H200") == 989e12
    assert data_sheet("NVIDIA H100 PCIe") == 756e12
    assert data_sheet("AMD EPYC 9554") is None


def test_the_benchmark_imports_no_ray_or_pydantic() -> None:
    code = (
        "import sys, benchmarks.train_gpu; sys.exit(len({'ray', 'pydantic', 'orchestrator'} & "
        "set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
