"""How each format shows a search: a table of trials, best first, and the same lines below it."""

from __future__ import annotations

import html
import io
import re

import pytest
from markdown_it import MarkdownIt
from pydantic import JsonValue
from rich.console import Console

from orchestrator.report import (
    Origin,
    Search,
    make_markdown,
    make_trials_table,
    report_json,
    search_lines,
)
from orchestrator.report.search import summarise
from orchestrator.report.search.agreement import Agreement
from orchestrator.report.search.terminal import sparkline
from orchestrator.trials import Trials, TrialState
from tests.orchestrator.report.search.searched import asha_search, make_trial, make_trials

ORIGIN = Origin("/store", "r1", "orchestrator run job.yaml", {})
AGREEMENT = Agreement(kendall_tau=2 / 3, num_trials=4)


def _search(trials: Trials, agreement: Agreement | None = None) -> Search:
    return Search("search", trials, summarise(trials, agreement))


@pytest.fixture
def small() -> Search:
    params: list[dict[str, JsonValue]] = [
        {"lr": 0.1 / number, "flip": number % 2 == 0} for number in range(1, 5)
    ]
    return _search(
        make_trials(
            make_trial(1, params[0], 10, 20.125),
            make_trial(2, params[1], 5, state=TrialState.STOPPED),
            make_trial(3, params[2], 10, 60.5),
            make_trial(
                4, params[3], state=TrialState.FAILED, error="OutOfMemoryError: [CUDA] *no* room"
            ),
        ),
        AGREEMENT,
    )


def _shown(search: Search, *, width: int = 120, is_ascii: bool = True) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(
        make_trials_table(search, width=width, is_ascii=is_ascii)
    )
    return stream.getvalue().splitlines()


def _rows(lines: list[str]) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| ", line)
    ]


def test_terminal_has_a_row_per_trial_best_first(small: Search) -> None:
    header, *rows = _rows(_shown(small))
    assert header == ["trial", "lr", "flip", "top1", "epochs", "state", "duration", "core-hours"]
    assert rows == [
        ["3", "0.03333", "false", "60.50", "2", "finished", "4 min", "0.3"],
        ["1", "0.1", "false", "20.12", "2", "finished", "4 min", "0.3"],
        ["2", "0.05", "true", "5.00", "1", "stopped", "2 min", "0.167"],
        ["4", "0.025", "true", "-", "0", "failed", "30 s", "0.0333"],
    ]


def test_lines_summarise_a_search(small: Search) -> None:
    counts, failed, best, cost, importance, agreement = search_lines(small, is_ascii=True)
    assert counts == "4 trials: 2 finished, 1 stopped early, 1 failed"
    assert failed == "failed: trial 4: OutOfMemoryError: [CUDA] *no* room"
    assert best == "best: trial 3, top1 60.50 % at epoch 2, with lr=0.03333 flip=false"
    assert cost == (
        "spent: 0.8 core-hours; early stopping saved about 0.167, 17% of the cost without it"
    )
    assert importance == "importance of params: none, needs at least 4 trials with a value, not 3"
    over = "over the params of 4 trials that were also trained in full"
    assert agreement == f"short trials and full training: Kendall's tau +0.67 {over}"


def test_unicode_terminal_shows_best_so_far_as_a_sparkline(small: Search) -> None:
    assert search_lines(small, is_ascii=False)[-1] == "best so far: 20.12 ▁▁██ 60.50"
    assert not any("█" in line for line in search_lines(small, is_ascii=True))


def test_constant_best_so_far_is_not_drawn() -> None:
    search = _search(make_trials(make_trial(1, {}, 5), make_trial(2, {}, 4)))
    assert not any("so far" in line for line in search_lines(search, is_ascii=False))


@pytest.mark.parametrize(
    ("values", "is_higher_better", "bars"),
    [
        ((None, 1.0, 1.0, 2.0), True, " ▁▁█"),
        ((3.0, 2.0, 1.0), False, "▁▅█"),
        ((2.0, 2.0), False, "██"),
        ((), True, ""),
    ],
)
def test_sparkline_is_tallest_at_the_best(
    values: tuple[float | None, ...], is_higher_better: bool, bars: str
) -> None:
    assert sparkline(values, is_higher_better=is_higher_better) == bars


def test_long_sparkline_is_thinned_and_keeps_its_end() -> None:
    bars = sparkline([float(number) for number in range(1000)])
    assert len(bars) <= 60
    assert bars[0] == "▁"
    assert bars[-1] == "█"


def test_large_search_shows_20_trials_and_counts_the_rest() -> None:
    search = _search(asha_search())
    assert len(_rows(_shown(search))) == 1 + 20
    assert (
        search_lines(search, is_ascii=True)[0] == "and 6 more trials; --format json has all of them"
    )
    assert "- and 6 more trials" in make_markdown("job", (), {}, ORIGIN, (search,))


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_numbers_in_the_table_are_not_cut_at_any_width(width: int) -> None:
    lines = _shown(_search(asha_search()), width=width)
    assert max(map(len, lines)) <= width
    header, best = _rows(lines)[:2]
    assert header[0] == "trial"
    assert header[-4:] == ["epochs", "state", "duration", "GPU-hours"]
    assert best[0] == "14"
    assert best[-5:] == ["80.95", "27", "finished", "54 min", "0.908"]


def test_many_params_share_a_column() -> None:
    params: dict[str, JsonValue] = {f"model.stages.{number}.drop_path": 0.1 for number in range(8)}
    header, *rows = _rows(_shown(_search(make_trials(make_trial(1, params, 5)))))
    assert header[:3] == ["trial", "params", "top1"]
    assert " ".join(row[1] for row in rows) == " ".join(f"{name}=0.1" for name in params)


def test_long_mapping_is_cut_except_for_the_best_trial() -> None:
    model: JsonValue = {"depths": [1, 1, 6, 1], "embed_dim": 96}
    search = _search(make_trials(make_trial(1, {"model": model}, 5)))
    assert _rows(_shown(search))[1][1] == '{"depth...im":96}'
    assert 'model={"depths":[1,1,6,1],"embed_dim":96}' in search_lines(search, is_ascii=True)[1]


def test_markdown_has_a_section_with_the_same_table_and_lines(small: Search) -> None:
    text = make_markdown(
        "job", (), {}, ORIGIN, (small,), {"search": {"Best so far": "plots dir/search/a.svg"}}
    )
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    rows = [
        re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL)
    ]
    table = [[html.unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in rows[-5:]]
    assert table == _rows(_shown(small))
    assert "<h2>Search search</h2>" in rendered
    assert "<strong>60.50</strong>" in rendered
    for line in search_lines(small, is_ascii=True):
        assert f"<li>{html.escape(line, quote=False)}</li>" in rendered
    assert '<img src="plots%20dir/search/a.svg" alt="Best so far" />' in rendered


def test_report_without_searches_has_no_search_section() -> None:
    assert "Search" not in make_markdown("job", (), {}, ORIGIN)
    assert report_json("job", (), {})["searches"] == {}


def test_json_has_the_summary_and_every_trial_unrounded() -> None:
    search = _search(asha_search(), AGREEMENT)
    document = report_json("job", (), {}, (search,))["searches"]
    assert isinstance(document, dict)
    found = document["search"]
    assert isinstance(found, dict)
    assert found["trials"] == search.trials.model_dump(mode="json")["trials"]
    assert found["agreement"] == {"kendall_tau": 2 / 3, "num_trials": 4}
    assert found["best_so_far"] == list(search.summary.best_so_far)
    assert set(found) == {*type(search.summary).model_fields, "trials"}
