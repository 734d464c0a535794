"""The page of one pretraining run, index.html in its folder: what a reader needs to judge the run, in one file."""

from __future__ import annotations

import base64
import json
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from paramcrop.errors import DataError, ParamCropError
from paramcrop.report.crop_pictures import animate_crops
from paramcrop.report.page import templates
from paramcrop.report.plots import plot_curves
from paramcrop.report.snapshots import read_snapshots
from paramcrop.report.text import NOTHING
from paramcrop.settings.config import Config
from paramcrop.storage.files import atomic_write
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import read_metrics, read_status
from paramcrop.sweeps.cost import worker_seconds

PAGE = "index.html"
PLAIN = ("time", "event", "command", "commit")  # of the history, in columns of their own or elsewhere
FILMS = 2  # saved clips that are shown
LOST = 20  # videos that could not be read, in the table
SUMMARY = {
    "loss": ("loss", "{:.3f}"),
    "positives": ("similarity_positive", "{:.3f}"),
    "negatives": ("similarity_negative", "{:.3f}"),
    "gap": ("similarity_gap", "{:.3f}"),
    "rank": ("rank", "{:.1f}"),
    "spread": ("embedding_std", "{:.3f}"),
    "centre distance": ("crop_distance", "{:.3f}"),
    "in the video": ("source_distance", "{:.3f}"),
    "IoU": ("crop_iou", "{:.3f}"),
    "IoU in the video": ("source_iou", "{:.3f}"),
    "k-NN": ("probe_knn", "{:.1%}"),
    "linear": ("probe_linear", "{:.1%}"),
}
Lines = list[list[str]]


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not, atomically to ``out``, by default index.html in its folder.

    Raises:
        DataError: the run has no metrics yet.
        OSError: ``out`` is not writable.
    """
    text = templates().get_template("run.html.j2").render(run=facts(folder))
    out = out or folder / PAGE
    with atomic_write(out) as part:
        part.write_text(text)
    return out


def refresh_page(place: Mirror) -> list[str]:
    """Write the page of a run, if it has metrics, and send it to its bucket -> a line if that has failed.

    It raises nothing: a run does not end for its page.
    """
    try:
        if read_metrics(place.folder):
            write_page(place.folder)
            place.send(PAGE, waits=())
    except Exception as error:
        text = str(error).splitlines()
        return [f"note: the run's page was not written: {text[0] if text else type(error).__name__}"]
    return []


def facts(folder: Path) -> dict[str, Any]:
    """What the template shows.

    Raises:
        DataError: the run has no metrics yet.
    """
    metrics, status = read_metrics(folder), read_status(folder)
    if not metrics:
        raise DataError(f"a page needs metrics, but {folder} has none yet")
    origin, settings = _json(folder / "provenance.json"), _settings(folder)
    history = read_lines(folder / "history.jsonl")
    chance, headline = _method(settings, origin)
    failures = read_lines(folder / "failures.jsonl")
    return {
        "folder": folder,
        "name": folder.name,
        "state": status["state"],
        "error": status.get("error", ""),
        "step": metrics[-1]["step"],
        "headline": headline,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "warnings": [line["text"] for line in read_lines(folder / "warnings.jsonl")],
        "summary": summary_lines(metrics, chance),
        "moco": settings.get("method") == "moco",
        "curves": curves(metrics, chance),
        **crops(folder),
        "speed": speed(metrics, history),
        "lost": lost_lines(failures),
        "loss_text": _lost_text(failures, metrics[-1]["step"], settings),
        "changed": origin.get("settings", {}),
        "settings": settings,
        "provenance": provenance(origin, history),
        "history": history_lines(history),
    }


def summary_lines(metrics: Sequence[Mapping[str, Any]], chance: float | None) -> Lines:
    """The main figures at start, middle and end; a probe's are those of the last one until then."""
    places = {"start": 0, "middle": len(metrics) // 2, "end": len(metrics) - 1}
    shown = {name: one for name, one in SUMMARY.items() if any(line.get(one[0]) is not None for line in metrics)}
    lines = [["", "step", *(["loss by chance"] if chance else []), *shown]]
    for place, i in places.items():
        cells = [_last(metrics[: i + 1], key, form) for key, form in shown.values()]
        lines.append([place, str(metrics[i]["step"]), *([f"{chance:.3f}"] if chance else []), *cells])
    return lines


def _last(metrics: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """The metric of the last line; that of an earlier line for probes, which not every line has."""
    lines = metrics if key.startswith("probe") else metrics[-1:]
    values = [line[key] for line in lines if line.get(key) is not None]
    return form.format(values[-1]).replace("-0.000", "0.000") if values else NOTHING


def curves(metrics: Sequence[Mapping[str, Any]], chance: float | None) -> str:
    picture = BytesIO()
    plot_curves(metrics, picture, chance)
    return _url(picture.getvalue(), "png")


def crops(folder: Path) -> dict[str, Any]:
    """The films of the first saved clips, and whether each view has its own clip."""
    try:
        first = read_snapshots(folder)[0]
    except DataError:
        return {"films": [], "two_clips": False}
    films = [_url(animate_crops(folder, video), "webp") for video in range(min(FILMS, len(first.video)))]
    return {"films": films, "two_clips": first.video.shape[1] > 1}


def speed(metrics: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Views per second and waiting for data, over the logged steps but the first, and the time taken."""
    later = metrics[1:] or metrics  # the first line has the start of the workers in it
    seconds, complete = worker_seconds(history)
    spent = [f"{duration(value)} of {device}" for device, value in seconds.items()]
    speeds, waits = ([m[name] for m in later if m.get(name) is not None] for name in ("clips_per_s", "data_wait"))
    found = {"worker time": ", ".join(spent + ([] if complete else ["starts whose end is unknown"]))}
    if speeds and waits:
        found["views per second"] = f"{statistics.median(speeds):.4g} (median)"
        found["waiting for data"] = f"{statistics.median(waits):.1%} of the time (median), {max(waits):.1%} at most"
    return found | {"starts of the workers": str(sum(line["event"] == "workers" for line in history))}


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def lost_lines(failures: Sequence[Mapping[str, Any]]) -> Lines:
    """The videos that could not be read, each once."""
    reasons = {line["id"]: line["reason"] for line in failures}
    times = {video: sum(line["id"] == video for line in failures) for video in list(reasons)[:LOST]}
    rest = [[f"and {len(reasons) - LOST} more", "", "failures.jsonl"]] if len(reasons) > LOST else []
    return [["video", "times", "why"], *([video, str(n), reasons[video]] for video, n in times.items()), *rest]


def _lost_text(failures: Sequence[Mapping[str, Any]], step: int, settings: Mapping[str, Any]) -> str:
    rows = step * settings.get("train", {}).get("global_batch", 0)
    share = f" ({len(failures) / rows:.2%} of {rows})" if rows else ""
    videos = len({line["id"] for line in failures})
    return (
        f"{len(failures)} samples{share} of {videos} video{'s' * (videos > 1)} could not be read; "
        "others took their places."
    )


def provenance(origin: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the run was computed from, with, and on."""
    videos = ", ".join(f"{name} {value}" for name, value in origin.get("videos", {}).items())
    known = {
        "run id": origin.get("run_id"),
        "seed": origin.get("seed"),
        "data": f"{origin.get('data', '')} ({videos})",
        "workers": worker_text(history),
        "commit": origin.get("commit"),
        "python": origin.get("python"),
        **origin.get("versions", {}),
        "command": shlex.join(origin.get("command", [])),
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def worker_text(history: Sequence[Mapping[str, Any]]) -> str:
    """How many workers trained on what, and from which step each change was: "2 x cpu, 1 x cpu from step 12"."""
    told, before = list[str](), ""
    for line in history:
        if line["event"] == "workers" and (now := f"{line['workers']} x {line['device']}") != before:
            told.append(f"{now} from step {line['step']}" if before else now)
            before = now
    return ", ".join(told)


def history_lines(history: Sequence[Mapping[str, Any]]) -> Lines:
    """Every start and end, with what changed or went wrong."""
    lines = [["when", "event", ""]]
    for line in history:
        told = {k: v for k, v in line.items() if k not in PLAIN and v not in ([], None)}
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["time"]))
        lines.append([when, line["event"], ", ".join(f"{name} {value}" for name, value in told.items())])
    return lines


def _method(settings: Mapping[str, Any], origin: Mapping[str, Any]) -> tuple[float | None, str]:
    """The loss by chance and a line on the model; None and less for a run whose settings are not today's."""
    with suppress(ValidationError, ParamCropError):
        config = Config.model_validate(settings)
        text = f"{config.method} with {config.backbone.name}, crops by {config.policy}, seed {config.seed}"
        text += f", {config.train.global_batch} videos a step, {config.train.epochs} epochs"
        classes = origin.get("videos", {}).get("classes", 0)
        return (None if config.method == "mean_teacher" and classes < 2 else config.chance_loss(classes)), text
    return None, str(settings.get("method", ""))


def _settings(folder: Path) -> dict[str, Any]:
    with suppress(OSError, yaml.YAMLError):
        return yaml.safe_load((folder / "config.yaml").read_text()) or {}
    return {}


def _json(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    return {}


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
