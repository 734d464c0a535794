"""Results as a reader sees them: in %, with their errors, and what must be known to compare them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from paramcrop.evaluation.statistics import Difference, Mean
from paramcrop.report.facts import ENDS, RunFacts, Spread, agreed, end_of
from paramcrop.report.table import Cell, Row, Table, Task, named_by_id
from paramcrop.settings.presets import show
from paramcrop.sweeps.trials import rounded

SPREAD = "± 95 % over pretraining seeds (from three on)"
ERRORS = f"in %, {SPREAD}, [standard error that the test set's size alone gives]"
PAIRED = "paired by split and video, ± 95 % over seeds and videos"


def show_mean(mean: Mean) -> str:
    """Value with its interval, or the seeds' values; the test set's own error: "59.9 ± 1.2 [2.1]"."""
    value = f"{100 * mean.value:.1f}"
    if mean.half is not None:
        value += f" ± {100 * mean.half:.1f}"
    elif len(mean.values) > 1:
        value += f" ({', '.join(f'{100 * v:.1f}' for v in mean.values)})"
    return f"{value} [{100 * mean.test_error:.1f}]"


def show_difference(difference: Difference) -> str:
    """ "+1.2 ± 0.8", "+0.3 ± 1.1: not resolved", or "+1.2 ± 0.8 for this seed" where the seeds' part is not known.

    It is the difference of the means as they are printed, so that a reader who subtracts finds it.
    """
    printed = round(100 * difference.a, 1) - round(100 * difference.b, 1)
    half = "" if difference.half is None else f" ± {100 * difference.half:.1f}"
    told = " for this seed" if difference.seeds == 1 else "" if difference.resolved else ": not resolved"
    return f"{printed:+.1f}{half}{told}"


def show_count(mean: Mean) -> str:
    """ "1530 of 1530", or "4590 of 4590 (4216 videos)" where test splits share videos."""
    return f"{mean.n} of {mean.of}" + (f" ({mean.videos} videos)" if mean.videos < mean.n else "")


def notes(results: Iterable[tuple[Mapping[str, Any], str | None]]) -> list[str]:
    """What a reader must know to compare.

    Args:
        results: each with the split that its run was pretrained on, of the set that it was pretrained on.
    """
    results, lines = list(results), []
    of_runs = [(result, split) for result, split in results if result["subject"] == "run"]
    if seen := {split for result, split in of_runs if result["pretraining_data"] == result["content_id"]}:
        told = ", ".join(sorted(split or "all videos" for split in seen))
        lines.append(f"note: the run was pretrained, without labels, on this same set ({told})")
    if any(result["protocol"] != result["numbers"]["name"] for result, _ in results):
        lines.append("note: numbers in brackets differ from the named protocol's: not comparable with the paper's")
    for dataset, classes in {result["dataset"]: len(result["classes"]) for result, _ in results}.items():
        lines.append(
            f"note: {dataset} has {classes} classes: by chance, the first guess is right in {100 / classes:.1f} %"
        )
    return lines


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
    """ "0.623 ± 0.012", or with fewer than three seeds what each has."""
    if spread is None:
        return NOTHING
    if spread.half is not None:
        return f"{spread.value:.3f} ± {spread.half:.3f}"
    seeds = ", ".join(f"{value:.3f}" for value in spread.values)
    return f"{spread.value:.3f}" + (f" ({seeds})" if len(spread.values) > 1 else "")


def show_end(row: Row, name: str) -> str:
    """One of ``ENDS``."""
    return show_spread(end_of(row.runs, name))


def show_time(seconds: float, all_known: bool = True) -> str:
    """ "36 s", "12 min", "3.25 h"; "≥" where some is not known."""
    units = ((7200, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
    size, unit = next((size, unit) for least, size, unit in units if seconds >= least)
    return f"{'' if all_known else '≥ '}{seconds / size:.3g} {unit}"


def show_work(runs: Collection[RunFacts]) -> str:
    """ "3.25 h GPU", "≥ 12 min CPU"."""
    seconds, all_known = Counter[str](), all(run.all_known for run in runs)
    for run in runs:
        seconds.update(run.seconds)
    told = [f"{show_time(each, all_known)} {DEVICES[device]}" for device, each in seconds.items()]
    return " + ".join(told) or show_time(0, all_known)


def task_lines(table: Table, task: Task) -> list[list[str]]:
    """A head, then a line a trial: every shown metric, the difference to the first row, n of N."""
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
    """A head, then a line a trial: its swept settings; empty where the labels say them."""
    if not named_by_id(table.space):
        return []
    keys = list(table.space.params)
    values = [[show(rounded(row.record.values.get(key))) for key in keys] for row in table.rows]
    return [["", *keys], *([row.label, *told] for row, told in zip(table.rows, values, strict=True))]


def trial_lines(table: Table) -> list[list[str]]:
    """A head, then a line a trial: state, seeds, where pretraining ended, what it cost."""
    cost = ["pretraining, time x workers", "evaluation", "clips/s"]
    lines = [["", "state", "seeds", *ENDS.values(), *cost]]
    for row in table.rows:
        seeds = ", ".join(str(run.seed) for run in row.runs) or NOTHING
        ends = [show_end(row, name) for name in ENDS]
        lines.append([row.label, show_state(row), seeds, *ends, *_cost(row)])
    return lines


def _cost(row: Row) -> list[str]:
    speeds = [run.clips_per_s for run in row.runs if run.clips_per_s is not None]
    worked = show_work(row.runs) if row.runs else NOTHING
    judged = show_time(sum(r["seconds"] for r in row.results)) if row.results else NOTHING
    return [worked, judged, f"{sum(speeds) / len(speeds):.3g}" if speeds else NOTHING]


def show_counts(table: Table) -> str:
    """ "8 trials: 7 done, 1 failed"; "1 trial"."""
    states = Counter(row.record.state for row in table.rows)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return show_trials(len(table.rows)) + (f": {told}" if told else "")


def show_trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def show_total(table: Table) -> str:
    """What all of it cost; a run or result that several trials share counts once."""
    runs = {run.folder: run for row in table.rows for run in row.runs}.values()
    results = {result["eval_id"]: result["seconds"] for row in table.rows for result in row.results}
    return (
        f"{len(runs)} pretrainings, {show_work(runs)} (time x workers, each on a GPU or its share of a node's CPUs); "
        f"{len(results)} evaluations, {show_time(sum(results.values()))}"
    )


def troubles(table: Table) -> list[str]:
    """What failed, and why."""
    return [f"{row.label}: {why}" for row in table.rows for why in row.why]


def all_notes(table: Table) -> list[str]:
    """What the errors mean, and what must be known to compare."""
    differences = f"differences: {PAIRED}; with one seed over videos alone, so for this seed"
    lines = [ERRORS, differences] if table.space.tasks else [SPREAD]
    if any(not run.all_known for row in table.rows for run in row.runs):
        lines.append("≥: a start that was killed or is still at work does not count")
    if table.space.search != "grid":
        lines.append(
            "trials are in the order of the objective, by which they were chosen: the best of many is partly luck"
        )
    return [*lines, *(note.removeprefix("note: ") for note in notes(_with_splits(table)))]


def _with_splits(table: Table) -> Iterator[tuple[dict[str, Any], str | None]]:
    for row in table.rows:
        split = {run.seed: run.split for run in row.runs}
        yield from ((result, split.get(result["pretraining_seed"])) for result in row.results)


def fixed_settings(table: Table) -> dict[str, Any]:
    """What all pretrainings had in common, as their folders say it."""
    return agreed([run.settings for row in table.rows for run in row.runs if run.settings])
