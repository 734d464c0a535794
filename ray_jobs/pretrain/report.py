"""The texts that a pretraining prints before and after the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from paramcrop.errors import ConfigError, ParamCropError
from paramcrop.settings.config import Config
from paramcrop.settings.explain import show
from paramcrop.settings.identity import flatten
from paramcrop.settings.presets import load_config
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import read_metrics

CONTENTS = {
    "index.html": "everything below on one page, for a browser",
    "figure5.png": "centre distance and IoU of the two crops (the paper's Figure 5)",
    "crops.png": "the crops drawn on frames, at start, middle and end",
    "crop_parameters.png": "histograms of the six crop parameters, at start, middle and end",
    "checkpoints": "weights, and everything needed to resume the run",
    "metrics.jsonl": "every logged step; tensorboard/ has the same",
    "samples.jsonl": "the video ids of each step; failures.jsonl: those that could not be decoded",
    "config.yaml": "the resolved settings; provenance.json: commit and versions",
}


def settings_text(config: Config, preset: str) -> str:
    """All settings as YAML. Comments name the value of the preset, and the default, where they differ."""
    import yaml

    now, names = config.model_dump(mode="json"), {"preset": load_config(preset), "default": Config()}
    others = {name: flatten(other.model_dump(mode="json")) for name, other in names.items()}
    values, lines, section = flatten(now), list[str](), ""
    for line in yaml.safe_dump(now, sort_keys=False).splitlines():
        key = line.strip().partition(":")[0]
        section = section if line.startswith((" ", "-")) else key
        full = f"{section}.{key}" if line.startswith("  ") else key
        differing = [f"{name} {show(other[full])}" for name, other in others.items() if _differs(values, other, full)]
        lines.append(line + (f"  # {', '.join(differing)}" if differing else ""))
    return "\n".join(lines)


def _differs(values: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return name in values and name in other and values[name] != other[name]


def describe(config: Config, videos: int | None, steps: int | None, classes: Sequence[str]) -> str:
    """What a run will do, with the figures that papers tend to leave ambiguous.

    Args:
        videos, steps: None if not known yet. classes: classes of the videos, which method=mean_teacher learns.

    Raises:
        ConfigError: the settings do not define a valid model.
    """
    t = config.train
    data = f"{videos} videos, {steps} steps" if videos else "steps"
    return (
        f"{config.method} with {config.backbone.name}, crops by {config.policy}\n"
        f"{describe_model(config, classes)}\n"
        f"{data} of {t.global_batch} videos = {2 * t.global_batch} views, {show_workers(config)}\n"
        f"effective learning rate {config.effective_lr:g} ({config.optim.name}; optim.lr {config.optim.lr:g}, "
        f"scaled by {config.optim.lr_scale}), croppers {config.cropper.lr:g}\n"
        f"loss by chance {describe_chance(config, classes)}"
    )


def show_workers(config: Config) -> str:
    """ "4 worker(s)", or "2, 4 or 8 workers, as there is room" for a range: the numbers that divide the batch."""
    if not config.elastic:
        return f"{config.train.workers} worker(s)"
    *others, most = map(str, config.worker_counts)
    return f"{', '.join(others)}{' or ' if others else ''}{most} workers, as there is room"


def describe_chance(config: Config, classes: Sequence[str]) -> str:
    """The loss of a network with uninformative outputs, and its formula."""
    batch, value = config.train.global_batch, f"{config.chance_loss(len(classes)):.3f}"
    if config.method == "moco":
        return f"ln(K+1) = {value}, K = {config.moco.queue} keys"
    if config.method == "mean_teacher":
        return f"L/B ln(C) = {value}, L = {config.labelled_rows} of B = {batch} videos labelled, C = {len(classes)}"
    return f"ln(2B-1) = {value}, B = {batch} videos"


def describe_model(config: Config, classes: Sequence[str]) -> str:
    """Parameters by part, operations per view, and memory per worker.

    Raises:
        ConfigError: the settings do not define a valid model, or one of impossible size.
    """
    from paramcrop.training.build import backbone_settings, view_size  # imports torch
    from paramcrop.training.model_size import model_size

    settings = backbone_settings(config)
    try:
        size = model_size(config, classes)
    except ParamCropError:
        raise
    except (RuntimeError, OverflowError, MemoryError):
        raise ConfigError(
            "a model must fit in memory, but one of these sizes does not even fit here: "
            f"train.global_batch={config.train.global_batch}, data.clip_size={config.data.clip_size}, "
            f"backbone.width={config.backbone.width}, projector.hidden={config.projector.hidden}, "
            f"moco.queue={config.moco.queue}"
        ) from None
    details = ", ".join(f"{name} {value}" for name, value in settings.items())
    learned = f"head {size.head:,}, croppers {size.croppers:,}"
    return (
        f"parameters: backbone {size.backbone:,}{f' ({details})' if details else ''}, {learned}\n"
        f"a view of {' x '.join(map(str, view_size(config)))}: {figure(size.macs)}MAC = {figure(2 * size.macs)}FLOP "
        "forward, backbone alone\n"
        f"GPU memory: about {memory(size.memory)} per worker "
        f"({config.batch_per_worker} videos a step, {size.dtype}); estimated, workspaces come on top"
    )


def figure(count: float) -> str:
    """Four significant digits and the SI prefix: 4474937344 -> '4.475 G'."""
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.4g} {prefix}"
    return f"{count:.4g} "


def memory(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def print_ending(place: Mirror, seconds: float, console: Console) -> None:
    """Print the table of start, middle and end, and the paths of the files."""
    folder = place.folder
    metrics = read_metrics(folder)
    rows = {"start": metrics[0], "middle": metrics[len(metrics) // 2], "end": metrics[-1]}
    if len(metrics) < 3:
        del rows["middle"]
    table = Table(title=f"{folder.name}: {metrics[-1]['step']} steps in {seconds:.0f} s")
    for name in ("", "step", "loss", "centre distance", "IoU", "saturated", "clips/s", "waiting for data"):
        table.add_column(name, justify="left" if not name else "right")
    for name, m in rows.items():
        figures = [
            f"{m['loss']:.3f}",
            f"{m['crop_distance']:.3f}",
            f"{m['crop_iou']:.3f}",
            f"{m.get('saturated', 0):.0%}",
        ]
        table.add_row(name, str(m["step"]), *figures, f"{m['clips_per_s']:.3g}", f"{m['data_wait']:.0%}")
    console.print(table)
    for name, text in CONTENTS.items():
        console.print(f"  {place}/{name}  {text}", highlight=False)
