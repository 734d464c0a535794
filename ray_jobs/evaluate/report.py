"""The output of `paramcrop evaluate`: its progress, its tables, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console, Group

from paramcrop.errors import ParamCropError
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.statistics import Mean, difference, means
from paramcrop.paper.published import published
from paramcrop.report.text import ERRORS, PAIRED, Pretraining, notes, show_count, show_difference, show_mean
from paramcrop.storage.find import label_runs
from paramcrop.storage.results import read_result, shown_metrics
from ray_jobs.terminal import Standing, bar, make_table

Found = tuple[Job, Mapping[str, Any]]


class Evaluations:
    """The number of finished evaluations of ``total``, and the progress of running ones."""

    def __init__(self, total: int) -> None:
        self._total, self._finished, self._running = total, 0, ""

    def report(self, finished: int, running: Sequence[str]) -> None:
        self._finished, self._running = finished, "; ".join(filter(None, running))

    def look(self) -> Standing:
        line = f"{self._finished}/{self._total} evaluations  {self._running}"
        return Standing(bar("evaluate", self._finished, self._total, self._running), (line,))


def describe(jobs: Sequence[Job], left: Sequence[Job]) -> str:
    """What the command evaluates."""
    tasks = list(dict.fromkeys(f"{job.dataset}/{job.how.label} v{job.how.version}" for job in jobs))
    subjects = ", ".join(dict.fromkeys(job.subject for job in jobs))
    splits = ", ".join(dict.fromkeys(f"{job.train} -> {job.test}" for job in jobs))
    done = f", {len(jobs) - len(left)} of them already finished" if len(left) < len(jobs) else ""
    return f"{len(jobs)} evaluations{done}: {', '.join(tasks)}\nof {subjects}; splits {splits}"


def print_results(jobs: Sequence[Job], failed: Mapping[str, ParamCropError], console: Console) -> None:
    """Print a table for each task with a line for each subject, then what failed, and notes for the reader."""
    tasks = by_task(jobs)
    for task, subjects in tasks.items():
        console.print(task_table(task, subjects), soft_wrap=False)
        for line in differences(subjects):
            console.print(line, highlight=False, markup=False)
    if tasks:
        console.print(ERRORS, highlight=False, markup=False)
    for job in jobs:
        if job.eval_id in failed:
            name = f"{job.subject} on {job.dataset}/{job.how.label}, {job.test}, seed {job.seed}"
            console.print(f"failed: {name}: {failed[job.eval_id]}", highlight=False, markup=False)
    if unread := {video for job in jobs for video in (read_result(job.result_file) or {}).get("again", ())}:
        text = f"{len(unread)} video(s), such as {min(unread)}, failed by time, memory or storage"
        console.print(f"{text}; the same command tries them again", highlight=False, markup=False)
    found = (each for subjects in tasks.values() for subject in subjects.values() for each in subject)
    for line in notes([(result, pretraining(job)) for job, result in found]):
        console.print(line, highlight=False, markup=False)


def by_task(jobs: Sequence[Job]) -> dict[str, dict[str, list[Found]]]:
    """Task -> name in the table -> its results: runs first, then the baselines that they are compared with."""
    names = label_runs([Path(run) for run in dict.fromkeys(job.run for job in jobs)])
    label = {str(folder): name for name, folders in names.items() for folder in folders}
    tasks: dict[str, dict[str, list[Found]]] = {}
    for job in sorted(jobs, key=lambda job: job.subject != "run"):
        result = read_result(job.result_file)
        if result is not None:
            who = label[job.run] if job.subject == "run" else job.subject
            tasks.setdefault(f"{job.dataset}/{job.how.label}", {}).setdefault(who, []).append((job, result))
    return tasks


def pretraining(job: Job) -> Pretraining:
    return Pretraining(job.settings.data.split, job.settings.labelled_rows > 0)


def task_table(task: str, subjects: Mapping[str, Sequence[Found]]) -> Group:
    metrics = shown_metrics(next(iter(subjects.values()))[0][1])
    lines = [["", *metrics, "n of N"]]
    for who, found in subjects.items():
        mean = means([result for _, result in found])
        counts = show_count(mean[metrics[0]])
        lines.append([who, *(cell(mean[m], paper(found[0][0], m)) for m in metrics), counts])
    return make_table(task, lines)


def differences(subjects: Mapping[str, Sequence[Found]]) -> list[str]:
    """The difference of every two subjects in the task's main metric, paired by video."""
    lines = []
    for (name, found), (other, against) in combinations(subjects.items(), 2):
        metric = shown_metrics(found[0][1])[0]
        d = difference([result for _, result in found], [result for _, result in against], metric)
        if d is not None and d.half is not None:
            lines.append(f"  {metric}: {name} - {other} = {show_difference(d)}")
    return [f"differences, {PAIRED}:", *lines] if lines else []


def cell(mean: Mean, paper: str) -> str:
    """The mean with its errors, and the paper's value."""
    return show_mean(mean) + (f" (paper {paper})" if paper else "")


def paper(job: Job, metric: str) -> str:
    """The paper's value for such a run, in %; two values where two of its tables differ."""
    values = published(job.settings, job.dataset, job.how.name, metric) if job.subject == "run" else ()
    return " / ".join(f"{100 * value:.1f}" for value in values)
