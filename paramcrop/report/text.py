"""Results as text: percentages with their errors, and notes that a comparison needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from paramcrop.evaluation.statistics import Difference, Mean
from paramcrop.report.facts import FINAL_METRICS, RunFacts, Spread, common_settings, final_metric
from paramcrop.report.table import Cell, Row, Table, Task, named_by_id
from paramcrop.settings.explain import show
from paramcrop.sweeps.objective import front, goals
from paramcrop.sweeps.trials import rounded
from paramcrop.sweeps.until import standings, until_goal

SPREAD = "± 95 % interval over pretraining seeds (from three seeds on)"
ERRORS = f"in %, {SPREAD}, [standard error from the size of the test set alone]"
PAIRED = "paired by split and video, ± 95 % interval over seeds and videos"


def show_mean(mean: Mean) -> str:
    """Value with its interval or the values of the seeds, and the error of the test set: "59.9 ± 1.2 [2.1]"."""
    value = f"{100 * mean.value:.1f}"
    if mean.half is not None:
        value += f" ± {100 * mean.half:.1f}"
    elif len(mean.values) > 1:
        value += f" ({', '.join(f'{100 * v:.1f}' for v in mean.values)})"
    return f"{value} [{100 * mean.test_error:.1f}]"


def show_difference(difference: Difference) -> str:
    """ "+1.2 ± 0.8", "+0.3 ± 1.1: not resolved", or "+1.2 ± 0.8 for this seed" if there is a single seed.

    The value is the difference of the rounded means, so that it agrees with the numbers in the table.
    """
    printed = round(100 * difference.a, 1) - round(100 * difference.b, 1)
    half = "" if difference.half is None else f" ± {100 * difference.half:.1f}"
    remark = " for this seed" if difference.seeds == 1 else "" if difference.resolved else ": not resolved"
    return f"{printed:+.1f}{half}{remark}"


def show_count(mean: Mean) -> str:
    """ "1530 of 1530", or "4590 of 4590 (4216 videos)" if test splits share videos."""
    return f"{mean.n} of {mean.of}" + (f" ({mean.videos} videos)" if mean.videos < mean.n else "")


class Pretraining(NamedTuple):
    """What a run was pretrained on: a split of its dataset (None: all videos), with or without its labels."""

    split: str | None
    labels: bool


def notes(results: Iterable[tuple[Mapping[str, Any], Pretraining]]) -> list[str]:
    """Notes that a reader needs to compare results; each comes with what its run was pretrained on."""
    results, lines = list(results), []
    of_runs = [(result, run) for result, run in results if result["subject"] == "run"]
    same = {run for result, run in of_runs if result["pretraining_data"] == result["content_id"]}
    for labels, how in ((False, "without labels"), (True, "with labels")):
        if splits := ", ".join(sorted(run.split or "all videos" for run in same if run.labels is labels)):
            lines.append(f"note: the run was pretrained on this same dataset ({splits}), {how}")
    if any(result["protocol"] != result["numbers"]["name"] for result, _ in results):
        lines.append(
            "note: the parameters in brackets differ from those of the named protocol, "
            "so the results are not comparable with the paper's"
        )
    if len({result["seed"] for result, _ in results if result["subject"] == "random-init"}) == 1:
        lines.append(
            "note: random-init is one draw of untrained weights, and draws differ by points; "
            "--seeds 0,1,2,3,4 compares with five"
        )
    for dataset in dict.fromkeys(result["dataset"] for result, _ in results):
        lines.append(_chance([result for result, _ in results if result["dataset"] == dataset]))
    return lines


def _chance(results: Sequence[Mapping[str, Any]]) -> str:
    """What top-1 accuracy is without looking at the videos, from results on one dataset."""
    dataset, classes = results[0]["dataset"], len(results[0]["classes"])
    line = f"note: {dataset} has {classes} classes; top-1 accuracy by chance is {100 / classes:.1f} %"
    sizes = [Counter(labels) for labels in {tuple(result["splits"]): result["labels"] for result in results}.values()]
    largest = sum(max(of_split.values()) for of_split in sizes) / sum(of_split.total() for of_split in sizes)
    if show_percent(largest) != show_percent(1 / classes):
        line += f", by the largest class alone {show_percent(largest)} %"
    return line


NOTHING = "-"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def show_cell(cell: Cell | None) -> str:
    """ "59.9 ± 1.2 [2.1] (paper 59.9)"."""
    if cell is None:
        return NOTHING
    return show_mean(cell.mean) + ("" if cell.paper is None else f" (paper {show_percent(cell.paper)})")


def show_percent(value: float) -> str:
    return f"{100 * value:.1f}"


def show_state(row: Row) -> str:
    """ "done", "running: seed 1: pretraining, step 80/240"."""
    return row.record.state + (f": {row.record.doing}" if row.record.doing else "")


def show_spread(spread: Spread | None) -> str:
    """ "0.623 ± 0.012", or with fewer than three seeds the value of each."""
    if spread is None:
        return NOTHING
    if spread.half is not None:
        return f"{spread.value:.3f} ± {spread.half:.3f}"
    seeds = ", ".join(f"{value:.3f}" for value in spread.values)
    return f"{spread.value:.3f}" + (f" ({seeds})" if len(spread.values) > 1 else "")


def show_end(row: Row, name: str) -> str:
    """One of ``ENDS``."""
    return show_spread(final_metric(row.runs, name))


def show_time(seconds: float, all_known: bool = True) -> str:
    """ "36 s", "12 min", "3.25 h"; with "≥" if part of it is unknown."""
    units = ((7200, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
    size, unit = next((size, unit) for least, size, unit in units if seconds >= least)
    return f"{'' if all_known else '≥ '}{seconds / size:.3g} {unit}"


def show_work(runs: Collection[RunFacts]) -> str:
    """ "3.25 h GPU", "≥ 12 min CPU"."""
    seconds, all_known = Counter[str](), all(run.all_known for run in runs)
    for run in runs:
        seconds.update(run.seconds)
    parts = [f"{show_time(each, all_known)} {DEVICES[device]}" for device, each in seconds.items()]
    return " + ".join(parts) or show_time(0, all_known)


def task_lines(table: Table, task: Task) -> list[list[str]]:
    """A header, then a line per trial: all shown metrics, the difference to the reference, n of N."""
    main = task.metrics[0]
    lines = [["", *task.metrics, f"{main} - {task.reference}", "n of N"]]
    for row in table.rows:
        cell = row.cells.get((task.name, main))
        if cell is None:
            lines.append([row.label, row.record.state, *[NOTHING] * (len(task.metrics) + 1)])
            continue
        difference = NOTHING if cell.difference is None else show_difference(cell.difference)
        values = [show_cell(row.cells.get((task.name, metric))) for metric in task.metrics]
        lines.append([row.label, *values, difference, show_count(cell.mean)])
    return lines


def setting_lines(table: Table) -> list[list[str]]:
    """A header, then a line per trial with its swept settings and, if there are several, its objectives.

    Empty if there is one objective and the labels contain the settings.
    """
    aims = goals(table.space) if len(table.space.objective) > 1 else ()
    if not named_by_id(table.space) and not aims:
        return []
    keys = list(table.space.params)
    lines = [[row.label, *(show(rounded(row.record.values.get(key))) for key in keys)] for row in table.rows]
    best = front(aims, [row.record.objectives for row in table.rows])
    for line, row, first in zip(lines, table.rows, best, strict=True) if aims else ():
        values = [*row.record.objectives, *[None] * len(aims)]
        line += [NOTHING if v is None else goal.show(v) for goal, v in zip(aims, values, strict=False)]
        line.append("yes" if first else "")
    return [["", *keys, *(goal.name for goal in aims), *(["on the front"] if aims else [])], *lines]


def trial_lines(table: Table) -> list[list[str]]:
    """A header, then a line per trial: state, seeds, final metrics of pretraining, cost."""
    cost = ["pretraining, time x workers", "evaluation", "clips/s"]
    names = FINAL_METRICS[table.space.frame]
    lines = [["", "state", "seeds", *names.values(), *cost]]
    for row in table.rows:
        seeds = ", ".join(str(run.seed) for run in row.runs) or NOTHING
        final = [show_end(row, name) for name in names]
        lines.append([row.record.name, show_state(row), seeds, *final, *_cost(row)])
    return lines


def _cost(row: Row) -> list[str]:
    speeds = [run.clips_per_s for run in row.runs if run.clips_per_s is not None]
    pretraining = show_work(row.runs) if row.runs else NOTHING
    evaluation = show_time(sum(r["seconds"] for r in row.results)) if row.results else NOTHING
    return [pretraining, evaluation, f"{sum(speeds) / len(speeds):.3g}" if speeds else NOTHING]


def show_counts(table: Table) -> str:
    """ "8 trials: 7 done, 1 failed"; "1 trial"."""
    states = Counter(row.record.state for row in table.rows)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return show_trials(len(table.rows)) + (f": {counts}" if counts else "")


def show_trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def show_total(table: Table) -> str:
    """The total cost; a run or result that several trials share counts once."""
    runs = {run.folder: run for row in table.rows for run in row.runs}.values()
    results = {result["eval_id"]: result["seconds"] for row in table.rows for result in row.results}
    return (
        f"{len(runs)} pretraining runs, {show_work(runs)} (time x workers; each has a GPU or its share of the CPUs); "
        f"{len(results)} evaluations, {show_time(sum(results.values()))}"
    )


def failures(table: Table) -> list[str]:
    """The failures of all trials, one line each."""
    return [f"{row.label}: {why}" for row in table.rows for why in row.why]


def all_notes(table: Table) -> list[str]:
    """What the errors mean, and the notes that a comparison needs."""
    differences = f"differences: {PAIRED}; with a single seed only over videos, so they hold for this seed"
    lines = [ERRORS, differences] if table.space.tasks else [SPREAD]
    if any(not run.all_known for row in table.rows for run in row.runs):
        lines.append("≥: the time of workers that were killed or are still running is not included")
    if table.space.search != "grid":
        lines.append("trials are sorted by the objective that the search optimises: the best of many is partly luck")
    if until := table.space.until:
        goal, results = until_goal(table.space), {row.label: row.results for row in table.rows}
        rule = "seeds were added until a sequential test resolved it; this interval holds at every look"
        lines += [f"{pair.show()} ({rule})" for pair in standings(until.resolved, goal, results)]
    return [*lines, *(note.removeprefix("note: ") for note in notes(_with_pretraining(table)))]


def _with_pretraining(table: Table) -> Iterator[tuple[dict[str, Any], Pretraining]]:
    unknown = Pretraining(None, False)
    for row in table.rows:
        runs = {run.seed: Pretraining(run.split, run.labels) for run in row.runs}
        yield from ((result, runs.get(result["pretraining_seed"], unknown)) for result in row.results)


def fixed_settings(table: Table) -> dict[str, Any]:
    """The settings that all pretraining runs have in common."""
    return common_settings([run.settings for row in table.rows for run in row.runs if run.settings])
