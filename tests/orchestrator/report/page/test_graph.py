"""The plan as a graph: stages to the right of what they need, cells of a matrix in one box."""

from __future__ import annotations

from orchestrator.report.page.graph import BOX_WIDTH, MAX_BOXES, Graph, make_graph


def graph(needs: dict[str, list[str]], **states: str) -> Graph:
    found = make_graph(needs, states)
    assert found is not None
    return found


def test_a_stage_is_to_the_right_of_all_that_it_needs() -> None:
    found = graph({"c": ["a", "b"], "b": ["a"], "a": []})
    columns = {box.name: box.x for box in found.boxes}
    assert columns["a"] < columns["b"] < columns["c"]
    assert len(found.lines) == 3
    assert all(x1 < x2 for x1, _, x2, _ in found.lines)


def test_stages_that_need_nothing_are_below_each_other() -> None:
    one, other = graph({"a": [], "b": []}).boxes
    assert one.x == other.x == 0
    assert one.y < other.y


def test_cells_of_a_matrix_share_a_box_with_their_worst_state() -> None:
    needs: dict[str, list[str]] = {"coco/a": ["pretrain"], "coco/b": ["pretrain"], "pretrain": []}
    found = make_graph(needs, {"coco/a": "done", "coco/b": "failed", "pretrain": "done"})
    assert found is not None
    (box,) = [box for box in found.boxes if box.name == "coco"]
    assert (box.num_stages, box.state) == (2, "failed")
    assert len(found.lines) == 1


def test_the_drawing_holds_all_boxes() -> None:
    found = graph({"a": [], "b": ["a"]})
    assert found.width == max(box.x for box in found.boxes) + BOX_WIDTH


def test_too_many_boxes_are_not_drawn() -> None:
    assert make_graph({f"s{number}": [] for number in range(MAX_BOXES + 1)}, {}) is None
