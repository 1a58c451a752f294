"""Which samples a search draws, from its seed, the given points and earlier runs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.cluster.suggest import MACHINE_ERROR, NUMBER, Suggestions, num_since_best
from orchestrator.errors import MachineError, StoreError
from orchestrator.spec import TuneParams
from orchestrator.store import Store, open_store
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog, load_log, load_logs, save_log, trial_training
from orchestrator.trials import Point, TrialState

SPACE = {
    "lr": {"loguniform": [1e-4, 1e-1]},
    "drop": {"quniform": [0.0, 0.3, 0.1]},
    "depth": {"randint": [1, 4]},
    "model": {"choice": [{"depths": [1, 2]}, "tiny", 1, True]},
}
TRAINING = Training("train/key", 1)

MakeSuggestions = Callable[..., Suggestions]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def make(store: Store) -> MakeSuggestions:
    def make_suggestions(
        *,
        clock: Callable[[], float] = lambda: 0.0,
        seed: int = 0,
        store: Store = store,
        is_cancelled: bool = False,
        **fields: Any,
    ) -> Suggestions:
        content = {"of": "x", "space": SPACE, "num_trials": 8, "metric": "top1", **fields}
        params = TuneParams.model_validate_json(json.dumps(content))
        return Suggestions(
            params,
            seed=seed,
            metric="top1",
            store=store,
            training=TRAINING,
            is_stopping=lambda: is_cancelled,
            clock=clock,
        )

    return make_suggestions


def _end(
    suggestions: Suggestions, store: Store, trial_id: str, *, value: float | None, **changes: Any
) -> None:
    """End a trial with `value` after one epoch, or as failed if `value` is None."""
    number = suggestions._trials[trial_id][1].number
    training = trial_training(TRAINING, number)
    log = load_log(store, training)
    state = TrialState.FAILED if value is None else TrialState.FINISHED
    curve = () if value is None else (Point(epoch=1, value=value, elapsed_s=1.0),)
    save_log(
        store,
        training,
        log.model_copy(update={"state": state, "value": value, "curve": curve, **changes}),
    )
    suggestions.on_trial_complete(trial_id, {"epoch": 1, "top1": value}, error=value is None)


def _train(suggestions: Suggestions, store: Store, names: Iterator[int], most: int = 99) -> None:
    """Draw and end trials, one at a time. A trial's value is its lr."""
    for number in names:
        config = suggestions.suggest(str(number))
        if config == "FINISHED":
            return
        assert isinstance(config, dict)
        params = load_log(store, trial_training(TRAINING, config[NUMBER])).params
        value = params["lr"]
        assert isinstance(value, float)
        _end(suggestions, store, str(number), value=value)
        if number + 1 >= most:
            return


def _drawn(store: Store) -> list[Any]:
    return [dict(log.params) for log in load_logs(store, TRAINING)]


@pytest.mark.parametrize("name", ["optuna", "random"])
def test_killed_search_draws_the_same_samples_when_resumed(
    make: MakeSuggestions, tmp_path: Path, name: str
) -> None:
    stores = [open_store(str(tmp_path / part)) for part in ("straight", "killed", "other")]
    fields = {"num_trials": 14, "algorithm": {"name": name}}
    _train(make(store=stores[0], **fields), stores[0], count())
    killed_one = make(store=stores[1], **fields)
    _train(killed_one, stores[1], count(), most=12)
    killed_one.suggest("killed in the middle")
    resumed = make(store=stores[1], **fields)
    resumed.learn(load_logs(stores[1], TRAINING))
    _train(resumed, stores[1], count())
    _train(make(store=stores[2], **fields, seed=1), stores[2], count())
    straight, killed, other = map(_drawn, stores)
    assert len(straight) == 14
    assert straight == killed != other


def _stop_all(suggestions: Suggestions, store: Store, names: range) -> None:
    """Draw trials that the scheduler stops after one epoch. A trial's value is its lr."""
    for name in names:
        config = suggestions.suggest(str(name))
        assert isinstance(config, dict)
        lr = load_log(store, trial_training(TRAINING, config[NUMBER])).params["lr"]
        assert isinstance(lr, float)
        _end(suggestions, store, str(name), value=lr, state=TrialState.STOPPED)


def test_curves_of_stopped_trials_guide_the_next_draws(
    make: MakeSuggestions, tmp_path: Path
) -> None:
    stores = [open_store(str(tmp_path / part)) for part in ("straight", "killed")]
    fields = {"num_trials": 30, "space": {"lr": {"uniform": [0.0, 1.0]}}}
    _stop_all(make(store=stores[0], **fields), stores[0], range(30))
    _stop_all(make(store=stores[1], **fields), stores[1], range(20))
    resumed = make(store=stores[1], **fields)
    resumed.learn(load_logs(stores[1], TRAINING))
    _stop_all(resumed, stores[1], range(20, 30))
    straight, killed = map(_drawn, stores)
    assert straight == killed
    assert sum(params["lr"] for params in straight[20:]) / 10 > 0.6, "more lr was better"


def test_no_trial_starts_after_the_store_is_unreachable(
    make: MakeSuggestions, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune would treat the error as the trial's and train the trial again."""
    suggestions = make()
    suggestions.suggest("a")
    suggestions.suggest("b")
    with monkeypatch.context() as broken:
        broken.setattr(type(store), "read", _out_of_reach)
        suggestions.on_trial_complete("a", {"epoch": 1, "top1": 1.0})
    suggestions.on_trial_complete("b", {"epoch": 1, "top1": 1.0})
    assert suggestions.suggest("c") == "FINISHED"
    assert str(suggestions.failure) == "out of reach"
    assert [log.state for log in load_logs(store, TRAINING)] == [None, TrialState.STOPPED]


def test_unreachable_store_at_a_draw_ends_the_search(
    make: MakeSuggestions, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggestions = make()
    monkeypatch.setattr(type(store), "write", _out_of_reach)
    assert suggestions.suggest("a") == "FINISHED"
    assert str(suggestions.failure) == "out of reach"


def _out_of_reach(*_: object) -> bytes:
    raise StoreError("out of reach")


def test_algorithm_seed_takes_precedence_over_the_stages(
    make: MakeSuggestions, tmp_path: Path
) -> None:
    stores = [open_store(str(tmp_path / part)) for part in "ab"]
    for store, seed in zip(stores, (1, 2), strict=True):
        _train(
            make(store=store, seed=seed, algorithm={"name": "random", "seed": 7}), store, count()
        )
    assert _drawn(stores[0]) == _drawn(stores[1])


def test_draws_do_not_depend_on_the_order_of_the_space(
    make: MakeSuggestions, tmp_path: Path
) -> None:
    stores = [open_store(str(tmp_path / part)) for part in "ab"]
    for store, names in zip(stores, (list(SPACE), sorted(SPACE, reverse=True)), strict=True):
        _train(make(store=store, space={name: SPACE[name] for name in names}), store, count())
    assert _drawn(stores[0]) == _drawn(stores[1])


def test_drawn_values_are_in_the_space(make: MakeSuggestions, store: Store) -> None:
    suggestions = make(num_trials=40, algorithm={"name": "random"})
    _train(suggestions, store, count())
    space = suggestions._params.space
    drawn = _drawn(store)
    assert all(space[name].holds(value) for params in drawn for name, value in params.items())
    models = {json.dumps(params["model"]) for params in drawn}
    assert models == {'{"depths": [1, 2]}', '"tiny"', "1", "true"}
    assert {params["depth"] for params in drawn} == {1, 2, 3}


def test_initial_points_are_tried_first_in_their_order(make: MakeSuggestions, store: Store) -> None:
    points = [
        {"lr": 1e-3, "drop": 0.1, "depth": 2, "model": True},
        {"lr": 1e-2, "drop": 0.3, "depth": 1, "model": {"depths": [1, 2]}},
    ]
    _train(make(initial=points, num_trials=3), store, count())
    assert _drawn(store)[:2] == points
    assert len(_drawn(store)) == 3


def test_grid_has_each_combination_once(make: MakeSuggestions, store: Store) -> None:
    space = {"model": {"choice": [{"depths": [1]}, "tiny", None]}, "lr": {"choice": [0.1, 0.2]}}
    _train(make(space=space, num_trials=None, algorithm={"name": "grid"}), store, count())
    drawn = [(params["lr"], params["model"]) for params in _drawn(store)]
    assert drawn == [(lr, model) for lr in (0.1, 0.2) for model in ({"depths": [1]}, "tiny", None)]


def test_unfinished_trials_are_resumed_before_new_ones(make: MakeSuggestions, store: Store) -> None:
    first = make()
    for name in "abc":
        first.suggest(name)
    _end(first, store, "b", value=0.5)
    second = make()
    second.learn(load_logs(store, TRAINING))
    assert [second.suggest(name) for name in "xyz"] == [{NUMBER: 1}, {NUMBER: 3}, {NUMBER: 4}]


def test_optuna_gets_the_params_of_a_resumed_trial(make: MakeSuggestions, store: Store) -> None:
    drawn = {"lr": 0.05, "drop": 0.1, "depth": 2, "model": {"depths": [1, 2]}}
    save_log(
        store, trial_training(TRAINING, 1), TrialLog(number=1, params=drawn, drawn_after_s=0.0)
    )
    suggestions = make()
    suggestions.learn(load_logs(store, TRAINING))
    suggestions.suggest("a")
    _end(suggestions, store, "a", value=0.5)
    (known,) = suggestions._study.trials
    assert known.params == {**drawn, "model": '{"depths":[1,2]}'}
    assert known.value == 0.5
    assert known.intermediate_values == {1: 0.5}


def test_draw_is_in_the_store_before_its_trial_starts(make: MakeSuggestions, store: Store) -> None:
    assert make().suggest("a") == {NUMBER: 1}
    (log,) = load_logs(store, TRAINING)
    assert log.number == 1
    assert log.state is None
    assert set(log.params) == set(SPACE)


def test_trial_stopped_by_the_scheduler_is_recorded(make: MakeSuggestions, store: Store) -> None:
    suggestions = make()
    for name in "ab":
        suggestions.suggest(name)
    suggestions.on_trial_complete("a", {"epoch": 1, "top1": 0.3})
    # Its process was lost: another run may try it again.
    suggestions.on_trial_complete("b", None, error=True)
    assert [log.state for log in load_logs(store, TRAINING)] == [TrialState.STOPPED, None]


def test_trial_left_to_another_run_is_not_stopped(make: MakeSuggestions, store: Store) -> None:
    suggestions = make()
    suggestions.suggest("a")
    training = trial_training(TRAINING, 1)
    save_log(
        store, training, load_log(store, training).model_copy(update={"error": "lost its process"})
    )
    suggestions.on_trial_complete("a", {})
    (log,) = load_logs(store, TRAINING)
    assert log.state is None
    resumed = make()
    resumed.learn([log])
    assert resumed.suggest("b") == {NUMBER: 1}


def test_no_trial_starts_after_stop_hours_over_all_runs(
    make: MakeSuggestions, store: Store
) -> None:
    now = iter([0.0, 0.0, 0.0, 1800.0, 1800.0, 3600.0]).__next__
    suggestions = make(clock=now, stop={"hours": 1})
    assert [suggestions.suggest(name) for name in "abc"] == [{NUMBER: 1}, {NUMBER: 2}, "FINISHED"]
    logs = load_logs(store, TRAINING)
    assert [log.drawn_after_s for log in logs] == [0.0, 1800.0]
    for log, elapsed_s in zip(logs, (100.0, 1800.0), strict=True):
        ended = log.model_copy(update={"elapsed_s": elapsed_s, "state": TrialState.STOPPED})
        save_log(store, trial_training(TRAINING, log.number), ended)
    later = make(clock=lambda: 0.0, stop={"hours": 1})
    later.learn(load_logs(store, TRAINING))
    assert later.suggest("d") == "FINISHED"


def test_no_trial_starts_after_no_improvement_trials(make: MakeSuggestions, store: Store) -> None:
    suggestions = make(stop={"no_improvement": 2}, num_trials=20)
    for name, value in {"a": 0.1, "b": 0.3, "c": None, "d": 0.3}.items():
        assert suggestions.suggest(name) != "FINISHED"
        _end(suggestions, store, name, value=value)
    assert suggestions.suggest("e") == "FINISHED"


def test_no_improvement_orders_by_end_and_ignores_failed_values(
    make: MakeSuggestions, store: Store
) -> None:
    first = make(num_trials=20)
    for name in "abcd":
        first.suggest(name)
    _end(first, store, "b", value=0.9, elapsed_s=1.0)
    _end(first, store, "c", value=0.95, elapsed_s=2.0, state=TrialState.FAILED)
    _end(first, store, "a", value=0.1, elapsed_s=3.0)
    for num, is_over in ((2, True), (3, False)):
        later = make(num_trials=20, stop={"no_improvement": num})
        later.learn([log for log in load_logs(store, TRAINING) if log.state])
        assert (later.suggest("e") == "FINISHED") is is_over


@pytest.mark.parametrize(
    ("values", "mode", "num"),
    [
        ([], "max", 0),
        ([None], "max", 1),
        ([1, 3, 3, None], "max", 2),
        ([1, 3, 3], "min", 2),
        ([2, 1], "min", 0),
    ],
)
def test_num_since_best_counts_from_the_first_best_value(
    values: list[float | None], mode: str, num: int
) -> None:
    assert num_since_best(values, mode) == num


@pytest.mark.parametrize("mode", ["max", "min"])
def test_values_of_earlier_trials_guide_the_next_draws(
    make: MakeSuggestions, store: Store, mode: str
) -> None:
    """In twenty trials a higher lr is better, or a lower one. TPE then draws more such values than
    chance would."""
    space = {"lr": {"uniform": [0.0, 1.0]}}
    for number in range(1, 21):
        lr = number / 20 - 0.025
        log = TrialLog(
            number=number, params={"lr": lr}, drawn_after_s=0.0, state=TrialState.FINISHED, value=lr
        )
        save_log(store, trial_training(TRAINING, number), log)
    suggestions = make(space=space, num_trials=40, mode=mode)
    suggestions.learn(load_logs(store, TRAINING))
    _train(suggestions, store, count())
    drawn = [params["lr"] if mode == "max" else 1 - params["lr"] for params in _drawn(store)[20:]]
    assert len(drawn) == 20
    assert sum(drawn) / len(drawn) > 0.75


def test_loguniform_is_uniform_in_the_logarithm(make: MakeSuggestions, store: Store) -> None:
    _train(make(num_trials=40, algorithm={"name": "random"}), store, count())
    assert 20 <= sum(params["lr"] < 1e-2 for params in _drawn(store)) <= 33


def test_searcher_pickles_without_its_store_and_clock(make: MakeSuggestions) -> None:
    assert pickle.loads(pickle.dumps(make())).__dict__ == {}


def test_machine_error_ends_the_search_not_the_trial(make: MakeSuggestions, store: Store) -> None:
    suggestions = make()
    suggestions.suggest("a")
    before = load_log(store, trial_training(TRAINING, 1))
    suggestions.on_trial_complete("a", {MACHINE_ERROR: "machine n7: no room"}, error=False)
    assert isinstance(suggestions.failure, MachineError)
    assert str(suggestions.failure) == "machine n7: no room"
    assert suggestions.suggest("b") == "FINISHED"
    assert load_log(store, trial_training(TRAINING, 1)) == before


def test_a_cancelled_search_starts_no_trial(make: MakeSuggestions) -> None:
    assert make(is_cancelled=True).suggest("1") == Searcher.FINISHED
