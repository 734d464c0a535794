"""The model card of a run's encoder: Markdown, with the metadata that the Hub reads. Equal runs give equal text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from paramcrop.evaluation.statistics import Mean, interval_half, means
from paramcrop.export.description import Description
from paramcrop.settings.explain import show
from paramcrop.settings.identity import flatten
from paramcrop.storage.results import read_result

PAPER = "ParamCrop: Parametric Cubic Cropping for Video Contrastive Learning"
ARXIV = "2108.10501"
BIBTEX = f"""@article{{qing2021paramcrop,
  title   = {{{PAPER}}},
  author  = {{Qing, Zhiwu and Huang, Ziyuan and Zhang, Shiwei and Tang, Mingqian and Gao, Changxin and
             Ang Jr, Marcelo H. and Jin, Rong and Sang, Nong}},
  journal = {{arXiv preprint arXiv:{ARXIV}}},
  year    = {{2021}}
}}"""
MAIN = ("method", "policy", "backbone.name", "seed", "train.epochs", "train.global_batch")  # shown even if by default


class Task(NamedTuple):
    """The results of the encoder's checkpoint in one protocol on one dataset."""

    dataset: str
    protocol: str
    results: Sequence[Mapping[str, Any]]

    @property
    def splits(self) -> str:
        return ", ".join(dict.fromkeys(result["splits"][1] for result in self.results))

    @property
    def means(self) -> dict[str, Mean]:
        return means(self.results)


def model_card(
    run: Path, described: Description, facts: Mapping[str, Any], settings: Mapping[str, Any], licence: str
) -> str:
    """The text of README.md.

    Args:
        run: the folder whose ``evaluations`` are read.
        facts: the run's provenance. settings: its resolved settings.
        licence: of the weights, as the Hub names it, such as "apache-2.0".
    """
    tasks = read_tasks(run, described.pretraining.epoch)
    head = yaml.safe_dump(metadata(described, tasks, licence), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{head}---",
        f"# {title(described)}",
        about(described),
        f"## Use\n\n{USE}",
        f"## Results\n\n{results_text(tasks)}",
        f"## Pretraining\n\n{settings_text(described, facts, settings)}",
        f"## Data\n\n{data_text(facts, settings)}",
        f"## Licence\n\nOf the weights: {licence}. The videos that they were learned from have licences of their own.",
        f"## Paper\n\n[{PAPER}](https://arxiv.org/abs/{ARXIV})\n\n```bibtex\n{BIBTEX}\n```",
    ]
    return "\n\n".join(parts) + "\n"


USE = """\
```python
import paramcrop

encoder = paramcrop.load("FOLDER")  # this folder, or hf://OWNER/NAME
features = encoder(encoder.preprocess("video.mp4"))
```

`preprocess(video, clips=10)` gives ten evenly spaced clips; `forward_features` gives the map before the mean over time
and space."""


def title(described: Description) -> str:
    return f"{described.pretraining.run}-{described.pretraining.run_id}"


def about(described: Description) -> str:
    p, x = described.pretraining, described.input
    return (
        f"A video encoder ({described.architecture.name}, {described.features} features), pretrained with {p.method} "
        f"on crops by `{p.policy}`; checkpoint after epoch {p.epoch}. Its clips have {x.frames} frames, "
        f"{x.stride} source frame{'s' if x.stride > 1 else ''} apart, of {x.size} x {x.size} pixels."
    )


def metadata(described: Description, tasks: Sequence[Task], licence: str) -> dict[str, Any]:
    """The Hub's metadata, with the evaluation results in percent."""
    found: dict[str, Any] = {
        "license": licence,
        "library_name": "paramcrop",
        "pipeline_tag": "video-classification",
        "tags": ["video", "self-supervised", "feature-extraction", "paramcrop", f"arxiv:{ARXIV}"],
    }
    if tasks:
        found["model-index"] = [{"name": title(described), "results": [indexed(task) for task in tasks]}]
    return found


def indexed(task: Task) -> dict[str, Any]:
    """A task as an entry of the Hub's model-index."""
    retrieval = any(name.startswith("R@") for name in task.means)
    kind = "video-retrieval" if retrieval else "video-classification"
    rows = []
    for name, mean in task.means.items():
        half = half_of(mean)
        facts = {"videos": mean.videos} | ({} if half is None else {"interval_95": round(100 * half, 2)})
        what = "recall" if retrieval else "accuracy"
        rows.append({"type": what, "name": f"{name}, %", "value": round(100 * mean.value, 2), "args": facts})
    return {
        "task": {"type": kind, "name": task.protocol},
        "dataset": {"type": task.dataset, "name": task.dataset, "split": task.splits},
        "metrics": rows,
    }


def half_of(mean: Mean) -> float | None:
    """Half the 95 % interval over test videos, for this one pretraining; None: there is one video."""
    return interval_half([(mean.test_error**2, mean.videos - 1)])


def read_tasks(run: Path, epoch: int) -> list[Task]:
    """The results of a run's checkpoint, in the order of their names."""
    found: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for file in sorted((run / "evaluations").glob("*.json")):
        result = read_result(file)
        if result and result["subject"] == "run" and result["subject_id"].get("epoch") == epoch:
            found.setdefault((result["dataset"], result["protocol"], result["version"]), []).append(result)
    return [
        Task(dataset, f"{protocol} v{version}", sorted(results, key=lambda result: (result["splits"], result["seed"])))
        for (dataset, protocol, version), results in sorted(found.items())
    ]


def results_text(tasks: Sequence[Task]) -> str:
    if not tasks:
        return "The run had not been evaluated when it was exported; `paramcrop evaluate` does."
    rows = [("Dataset", "Protocol", "Test split", "Metric", "%", "n of N")]
    for task in tasks:
        for name, mean in task.means.items():
            half = half_of(mean)
            value = f"{100 * mean.value:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
            rows.append((task.dataset, task.protocol, task.splits, name, value, f"{mean.n} of {mean.of}"))
    note = "± 95 % interval over test videos, for this one pretraining; another seed gives other weights."
    return f"{table(rows)}\n\n{note}"


def settings_text(described: Description, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    flat, changed = flatten(dict(settings)), facts.get("settings", {})
    names = dict.fromkeys((*MAIN, *sorted(changed)))
    rows = [("Setting", "Value"), *((f"`{name}`", show(flat[name])) for name in names if name in flat)]
    made = [
        ("run", described.pretraining.run_id),
        ("method version", facts.get("method_version")),
        ("precision", described.pretraining.precision),
        ("commit", facts.get("commit")),
    ]
    rows += [(name, str(value)) for name, value in made if value]
    return f"{table(rows)}\n\nAll other settings have their defaults."


def data_text(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    videos = dict(facts.get("videos", {}))
    split = settings.get("data", {}).get("split")
    rows = [("Fact", "Value"), *((name.replace("_", " "), str(value)) for name, value in videos.items() if value)]
    return table([*rows, ("split", split or "all videos"), ("id", str(facts["data"]))])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, of which the first is the header, as a Markdown table."""
    return "\n".join(_lines([[_escaped(cell) for cell in row] for row in rows]))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for i, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if i == 0:
            yield f"|{' --- |' * len(row)}"


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
