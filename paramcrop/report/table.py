"""The space and records of a sweep -> a table with a row per trial and a cell per task and metric, and its tidy rows.

Every trial has a row: one that is waiting, running or failed shows its state and the reason. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from paramcrop.errors import ConfigError
from paramcrop.evaluation.statistics import Difference, Mean, difference, means
from paramcrop.paper.published import paper_value
from paramcrop.report.facts import RunFacts, run_facts
from paramcrop.storage.results import read_result, shown_metrics
from paramcrop.sweeps.objective import Goal, front, goals
from paramcrop.sweeps.record import TrialRecord
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, grid, make_trial

Result = dict[str, Any]
PER_VIDEO = ("videos", "scores", "facts", "failed", "per_class", "confusion")


class Cell(NamedTuple):
    """The result of one trial in one task and metric; numbers in [0, 1].

    Attributes:
        difference: difference to the task's reference, see ``difference``; None: this is the reference, or there is
            nothing to compare.
        paper: the paper's value; None: it has none.
    """

    mean: Mean
    difference: Difference | None
    paper: float | None


class Task(NamedTuple):
    """A dataset, and a protocol with its parameters.

    Attributes:
        name: DATASET/LABEL.
        metrics: the metrics shown, the main one first.
        reference: label of the row that differences refer to, the first with results.
        chance: top-1 accuracy by chance, 1 / number of classes.
    """

    name: str
    metrics: tuple[str, ...]
    reference: str
    chance: float


class Row(NamedTuple):
    """One trial.

    Attributes:
        label: unique label; see ``named_by_id``.
        runs: its pretraining runs.
        results: its evaluations, without their data per video.
        cells: (task, metric) -> cell.
        why: its failures, one line each.
    """

    record: TrialRecord
    label: str
    runs: tuple[RunFacts, ...]
    results: tuple[Result, ...]
    cells: dict[tuple[str, str], Cell]
    why: tuple[str, ...]


class Table(NamedTuple):
    """The results of a sweep; the task of the objective comes first."""

    space: Space
    tasks: tuple[Task, ...]
    rows: tuple[Row, ...]


def make_table(space: Space, records: Sequence[TrialRecord]) -> Table:
    """Read the runs and results in the records."""
    references: dict[str, tuple[str, list[Result]]] = {}
    rows, labels = list[Row](), Counter[str]()
    for record in in_order(space, records):
        name = record.id[:6] if named_by_id(space) else record.label
        labels[name] += 1
        label = name if labels[name] == 1 else f"{name} ({record.id})"
        rows.append(_row(space, record, label, references))
    return Table(space, _tasks(space, references), tuple(rows))


def named_by_id(space: Space) -> bool:
    """Whether the labels are the ids of the trials, because a list of all settings would be too long."""
    return space.search != "grid" and len(space.params) > 2


def in_order(space: Space, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All trials of a grid in the order of the space, or the trials of a search by objective, best first.

    With several objectives, the trials of the Pareto front come first.
    """
    if space.search == "grid":
        known = {record.id: record for record in records}
        trials = [make_trial(space, values) for values in grid(space)]
        listed = [known.pop(t.id) if t.id in known else TrialRecord(t.id, t.label, t.values, "") for t in trials]
        return [*listed, *known.values()]
    sign = -1 if space.objective[0].mode == "max" else 1
    best = dict(zip((r.id for r in records), front(goals(space), [r.objectives for r in records]), strict=True))
    several = len(space.objective) > 1

    def place(record: TrialRecord) -> tuple[bool, bool, float]:
        return several and not best[record.id], record.objective is None, sign * (record.objective or 0.0)

    return sorted(records, key=place)


def task_of(result: Mapping[str, Any]) -> str:
    return f"{result['dataset']}/{result['protocol']}"


def _row(space: Space, record: TrialRecord, label: str, references: dict[str, tuple[str, list[Result]]]) -> Row:
    """The row of one trial, which becomes the reference of each task that no earlier trial has."""
    trial = Trial(record.values, label, {}, {})
    with suppress(ConfigError):  # a variant that the space no longer has
        trial = make_trial(space, record.values)
    found = {file: read_result(Path(file)) for file in record.results}
    results = [result for result in found.values() if result is not None]
    cells: dict[tuple[str, str], Cell] = {}
    for task in dict.fromkeys(map(task_of, results)):
        mine = [result for result in results if task_of(result) == task]
        _, first = references.setdefault(task, (label, mine))
        for metric, mean in means(mine).items():
            paper = paper_value(space, trial, mine[0], metric)
            cells[task, metric] = Cell(mean, None if mine is first else difference(mine, first, metric), paper)
    why = [f"seed {run['seed']}: {run['error']}" for run in record.runs if run["error"]] + record.failures
    why += [f"a result is missing: {file}" for file, result in found.items() if result is None]
    kept = tuple({k: v for k, v in result.items() if k not in PER_VIDEO} for result in results)
    return Row(record, label, tuple(map(run_facts, record.runs)), kept, cells, tuple(why))


def _tasks(space: Space, references: Mapping[str, tuple[str, Sequence[Result]]]) -> tuple[Task, ...]:
    """The tasks in the order of the results, but with the objective's task and metric first."""
    goal = next((goal for goal in goals(space) if goal.protocol), None)
    first, rest = list[Task](), list[Task]()
    for name, (label, results) in references.items():
        metrics, chance = shown_metrics(results[0]), 1 / len(results[0]["classes"])
        name_of = results[0]["numbers"]["name"]
        if goal and name_of == goal.protocol and goal.dataset in ("", results[0]["dataset"]):
            main = [row["metric"] for row in results[0]["rows"] if row["metric"] == goal.metric]
            first.append(Task(name, tuple(dict.fromkeys([*main, *metrics])), label, chance))
        else:
            rest.append(Task(name, tuple(metrics), label, chance))
    return (*first, *rest)


def is_of(task: Task, goal: Goal) -> bool:
    """Whether the task has the values of this objective."""
    dataset, _, label = task.name.partition("/")
    return label.partition("[")[0] == goal.protocol and goal.dataset in ("", dataset) and goal.metric in task.metrics


def tidy_rows(table: Table) -> list[dict[str, Any]]:
    """A row per evaluation and metric, with values in [0, 1]; a trial without results has one row without a metric."""
    return [row for trial in table.rows for row in _tidy(trial)]


def _tidy(row: Row) -> Iterator[dict[str, Any]]:
    record = row.record
    of_trial: dict[str, Any] = {
        "trial": record.id,
        "label": row.label,
        "state": record.state,
        "why": "; ".join(row.why),
    }
    of_trial |= {f"param.{key}": value for key, value in record.values.items()}
    runs = {run.seed: run for run in row.runs}
    for result in row.results:
        run = runs.get(result["pretraining_seed"])
        of_result = {
            "task": task_of(result),
            "dataset": result["dataset"],
            "protocol": result["protocol"],
            "seed": result["pretraining_seed"],
            "evaluation_seed": result["seed"],
            "train": result["splits"][0],
            "test": result["splits"][1],
            "run": str(run.folder) if run else None,
            "run_id": run.id if run else None,
            "run_commit": run.commit if run else None,
            "eval_id": result["eval_id"],
            "commit": result["commit"],
        }
        for one in result["rows"]:
            yield of_trial | of_result | one
    if not row.results:
        yield of_trial
