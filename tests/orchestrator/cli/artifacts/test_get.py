"""`orchestrator artifacts get` fetches verified files, never overwrites others, and converts."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from cat_model import Cat, CatConfig, load_classifier, save_classifier
from cat_model.weights.load import DESCRIPTION_FILE
from orchestrator.cli.artifacts.conversion import convert_checkpoint
from orchestrator.errors import CheckpointError, IntegrityError, JobError, StoreError
from pipelines.openmmlab.building import build_network
from pipelines.openmmlab.outputs import save_model
from pipelines.segmentation.model import make_model
from pipelines.segmentation.params import SegmentationParams
from tests.orchestrator.artifacts.published import Published, publish_job, published
from tests.orchestrator.cli.artifacts.running import run, run_json
from tests.pipelines.openmmlab.harness import save_toy_checkpoint

__all__ = ["published"]

WITHOUT_ONNXSCRIPT = """
import sys
from pathlib import Path
sys.modules["onnxscript"] = None  # importing it raises ImportError
from orchestrator.cli.artifacts.conversion import convert_checkpoint
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), target="onnx", kind="pretrain")
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a toy classifier. It is also the checkpoint of a published job."""
    monkeypatch.chdir(tmp_path)
    folder = save_toy_checkpoint(tmp_path / "toy")
    publish_job(tmp_path, str(tmp_path / "store"), folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("published")
def test_an_output_is_fetched_byte_for_byte() -> None:
    code, text = run("get", "job.yaml", "pretrain.checkpoint", "out")
    assert (code, re.sub(r"\(\w+\)", "(KEY)", text)) == (
        0,
        "out: pretrain.checkpoint (KEY): 2 files\n",
    )
    assert files(Path("out")) == {"model.safetensors": b"weights", "deep/model.json": b"{}"}


def test_only_missing_files_are_fetched_again(published: Published) -> None:
    run("get", "job.yaml", "pretrain.checkpoint", "out")
    Path("out/deep/model.json").unlink()
    published.store.delete(published.blob(b"weights"))
    document = run_json("get", "job.yaml", "pretrain.checkpoint", "out")
    assert (document["num_files"], document["num_new"]) == (2, 1)
    assert len(files(Path("out"))) == 2


@pytest.mark.usefixtures("published")
def test_a_file_that_differs_is_never_overwritten() -> None:
    Path("out").mkdir()
    Path("out/model.safetensors").write_text("mine")
    with pytest.raises(JobError, match=r"^out: has other files named model\.safetensors; nothing"):
        run("get", "job.yaml", "pretrain.checkpoint", "out")
    assert files(Path("out")) == {"model.safetensors": b"mine"}


def test_a_damaged_blob_leaves_no_file(published: Published) -> None:
    published.store.write(published.blob(b"weights"), b"weighty")
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        run("get", "job.yaml", "pretrain.checkpoint", "out")
    assert files(Path("out")) == {}


def test_a_key_has_outputs_without_a_stage(published: Published) -> None:
    key = published.plan["pretrain"].key
    run("get", "--key", key, "--store", published.store.uri, "log", "out")
    assert files(Path("out")) == {"epochs.jsonl": b"{}\n"}


@pytest.mark.usefixtures("published")
def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(JobError, match="pretrain: has no output 'chekpoint', did you mean 'check"):
        run("get", "job.yaml", "pretrain.chekpoint", "out")
    with pytest.raises(JobError, match=r"^pretrain: must be written STAGE\.OUTPUT"):
        run("get", "job.yaml", "pretrain", "out")
    Path("file").touch()
    with pytest.raises(StoreError, match=r"^file: cannot be written: "):
        run("get", "job.yaml", "pretrain.checkpoint", "file")


@pytest.mark.parametrize("target", ["timm", "mmdet", "safetensors"])
def test_the_card_loads_the_converted_weights(toy: Path, target: str) -> None:
    assert run("get", "job.yaml", "pretrain.checkpoint", "out", "--as", target)[0] == 0
    model = _load_as_the_card_says(Path("out"))["model"]
    published, _ = load_classifier(toy)
    tensors = model.state_dict()
    shared = [name for name in published.state_dict() if name in tensors]
    assert len(shared) > 50
    assert all(torch.equal(tensors[name], published.state_dict()[name]) for name in shared)


def test_onnx_returns_the_numbers_of_the_network(tmp_path: Path) -> None:
    config = CatConfig(img_size=56, embed_dim=16, depths=(1, 1), num_heads=(1, 2))
    model = Cat(config, num_classes=3).eval()
    save_classifier(tmp_path / "toy", model, classes=["a", "b", "c"])
    (tmp_path / "out").mkdir()
    code = convert_checkpoint(tmp_path / "toy", tmp_path / "out", target="onnx", kind="pretrain")
    assert _run_in(tmp_path / "out", code)["logits"].shape == (1, 3)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    images = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(images), atol=2e-5, rtol=0)
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["a", "b", "c"]'


def _load_as_the_card_says(folder: Path) -> dict[str, Any]:
    """Run the code of the card in its folder. Returns the variables."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return _run_in(folder, code)


def _run_in(folder: Path, code: str) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    with contextlib.chdir(folder):
        exec(code, variables)
    return variables


def test_the_card_has_numbers_key_params_and_data(toy: Path) -> None:
    run("get", "job.yaml", "pretrain.checkpoint", "out", "--as", "safetensors")
    before = files(Path("out"))
    card = before["README.md"].decode()
    assert card.startswith("# small: pretrain\n")
    assert "| top1 | 81.50 % |" in card
    assert f"- data fingerprint: `{'d' * 64}`" in card
    assert "| epochs | `3` |" in card
    assert (
        "2 were there"
        in run("get", "job.yaml", "pretrain.checkpoint", "out", "--as", "safetensors")[1]
    )
    assert files(Path("out")) == before


def test_only_a_checkpoint_is_converted(toy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^--as: the output is not a checkpoint; leave out"):
        run("get", "job.yaml", "pretrain.log", "out", "--as", "timm")
    assert files(Path("out")) == {}


def test_a_damaged_checkpoint_is_not_converted(toy: Path, tmp_path: Path) -> None:
    (toy / DESCRIPTION_FILE).write_text("[")
    with pytest.raises(CheckpointError, match=rf"^--as timm: .*{DESCRIPTION_FILE}"):
        convert_checkpoint(toy, tmp_path, target="timm", kind="pretrain")


def test_a_missing_library_of_onnx_is_an_error_with_its_command(toy: Path, tmp_path: Path) -> None:
    # In a process of its own: this one keeps what it has imported.
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONNXSCRIPT, toy, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "JobError: --as onnx: onnx and onnxscript are not installed; run: pip" in done.stderr


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    """A published segmenter with a toy backbone and random weights."""
    config = load_classifier(save_toy_checkpoint(tmp_path / "toy"))[0].config
    params = SegmentationParams.model_validate(
        {"method": "semantic_fpn", "backbone": "p.checkpoint", "data": "/ade20k"}
    )
    backbone = {"type": "CAT", "config": config.to_dict()}
    model = make_model(params, backbone=backbone, widths=config.dims, num_classes=3, device="cpu")
    network = build_network("mmseg", model).to_empty(device="cpu")
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    folder = tmp_path / "segmenter"
    save_model(folder, method="semantic_fpn", model=model, classes=["a", "b", "c"], weights=weights)
    return folder


def test_a_segmenter_becomes_a_config_and_weights(segmenter: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code = convert_checkpoint(segmenter, tmp_path / "out", target="mmdet", kind="segmentation")
    model = _run_in(tmp_path / "out", code)["model"]
    assert all(not tensor.any() for tensor in model.state_dict().values())
    assert model.decode_head.num_classes == 3


def test_a_segmenter_has_no_other_form(segmenter: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^--as timm: only a classifier .*use --as mmdet"):
        convert_checkpoint(segmenter, tmp_path, target="timm", kind="segmentation")
