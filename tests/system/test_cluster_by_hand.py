"""A reader who follows docs/cluster.md by hand gets a cluster of two nodes, and a job on it that is
submitted, watched, stopped and resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.store import Store, open_store
from tests.conftest import ROOT
from tests.docs.console import Command, steps
from tests.docs.test_documents import section
from tests.ray_nodes import RayNode, new_node, run_shell

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "cluster.md").read_text()
NUM_EPOCHS = 100


def _commands(title: str) -> list[str]:
    """The commands of a section of the page, as its reader types them."""
    return [step.line for step in steps(_joined(title)) if isinstance(step, Command)]


def _joined(title: str) -> str:
    return section(PAGE, title).replace("\\\n", " ")


@dataclass(frozen=True)
class Reader:
    """Types commands of the page, with this machine's names instead of the page's."""

    names: Mapping[str, str]
    environment: Mapping[str, str]
    exports: str = ""
    """The commands that set variables in the reader's shell."""

    def types(self, *lines: str) -> str:
        """Return what the commands print in one shell. The last one's exit code must be 0."""
        text = "\n".join([self.exports, *lines])
        for name, here in self.names.items():
            text = text.replace(name, here)
        # The variables of the tests would hide what the page leaves out.
        script = f"unset RAY_AUTH_MODE; cd {ROOT}; set -e\n{text}"
        return run_shell(script, self.environment)


@pytest.fixture
def nodes(environment: None) -> Iterator[tuple[RayNode, RayNode]]:
    """A head and another node, which the reader starts."""
    with new_node() as head, new_node() as other:
        yield head, other


def _write_job(folder: Path) -> Path:
    """A short job without torch in place of the one on the page."""
    (folder / "data").mkdir()
    (folder / "data" / "content.txt").write_text("content")
    training = {"kind": "count", "data": str(folder / "data"), "epochs": NUM_EPOCHS}
    stages = {"pretrain": {**training, "epoch_s": 5.0, "resumed_epoch_s": 0.0}}
    job = {"name": "by_hand", "store": str(folder / "store"), "stages": stages}
    (folder / "job.yaml").write_text(json.dumps(job))
    return folder / "job.yaml"


def _reader(node: RayNode, home: Path, names: Mapping[str, str]) -> Reader:
    """The reader on the machine of a node. Each machine has its own home folder."""
    home.mkdir()
    return Reader(names, {**node.environment, "HOME": str(home)})


def _options(node: RayNode, *, num_cpus: int, is_head: bool) -> str:
    return " ".join([f"--num-cpus={num_cpus}", *node.options(is_head=is_head)])


def _await(is_true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 900
    while not is_true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.2)


def _has_checkpoint(store: Store, watching: Sequence[Future[str]]) -> bool:
    for future in watching:  # they last until the job ends
        assert not future.done(), future.result()
    return any("/checkpoints/" in name for name in store.names("train"))


def test_the_commands_of_the_page_start_two_nodes_and_run_a_job(
    nodes: tuple[RayNode, RayNode], bucket: str, tmp_path: Path
) -> None:
    head, other = nodes
    store = f"s3://{bucket}/cat"
    # The driver is on the head, and the training on the other node.
    head_options = _options(head, num_cpus=0, is_head=True)
    other_options = _options(other, num_cpus=1, is_head=False)
    names = {
        "ray start --head": f"ray start --head {head_options}",
        "--address=HEAD:6379": f"--address={head.address} {other_options}",
        "http://127.0.0.1:8265": head.jobs_url,
        "jobs/full_pipeline.yaml": str(_write_job(tmp_path)),
        "python -m orchestrator": "python -m tests.orchestrator",
        "\norchestrator ": "\npython -m tests.orchestrator ",
        "s3://BUCKET/cat": store,
    }
    on_head = _reader(head, tmp_path / "head", names)
    on_other = _reader(other, tmp_path / "other", names)
    by_hand = _commands("One machine, or several by hand")
    head.start(lambda: on_head.types(*by_hand[:3]))
    token = Path(".ray", "auth_token")
    (tmp_path / "other" / ".ray").mkdir()
    (tmp_path / "other" / token).write_bytes((tmp_path / "head" / token).read_bytes())
    other.start(lambda: on_other.types(*by_hand[3:5]))

    exports, submit, watch, follow, stop, report = _commands("Submit, watch, stop and resume")
    user = replace(on_head, exports=exports)
    user.types(submit)
    with ThreadPoolExecutor() as threads:
        _await(lambda: bool(open_store(store).names("runs")), "no run")
        watching = [threads.submit(user.types, line) for line in (watch, follow)]
        _await(lambda: _has_checkpoint(open_store(store), watching), "no checkpoint")
        assert "was stopped" in user.types(stop)
        watched, followed = (future.result() for future in watching)
    assert "pretrain: interrupted" in watched
    assert "starting 1 worker" in followed

    resumed = user.types(submit.replace("cat-1", "cat-2").replace(" --no-wait", ""))
    assert "resuming at epoch " in resumed
    assert "by_hand: done: 1 stage" in resumed
    assert f"| pretrain | total | {NUM_EPOCHS}" in user.types(report)
