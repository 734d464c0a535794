"""Pretrain with ParamCrop on Ray: `python ray_jobs/pretrain.py [--preset NAME] [--config FILE] [key=value ...]`.

With no argument: a local Ray if none runs, a made-up video set, the demo's settings, Figure 5 at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # from a clone that is not installed, and in a job's working_dir
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from paramcrop.config import Config
from paramcrop.data.order import steps_per_epoch
from paramcrop.data.shards import Manifest, read_manifest
from paramcrop.runs import home, new_run_folder, read_metrics, write_provenance
from ray_jobs.cli import config_parser, parse_config, run_command
from ray_jobs.progress import RunProgress

MADE_UP_VIDEOS = 256


def main(argv: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    arguments = config_parser("pretrain.py", "Pretrain with ParamCrop on Ray.", preset="demo").parse_args(argv)
    config = parse_config(arguments)
    if arguments.dry_run:
        dry_run(config, console)
        return
    start = time.monotonic()
    data, manifest = find_data(config, console)
    steps = config.total_steps(steps_per_epoch(manifest.videos, config.train.global_batch))
    console.print(describe(config, manifest.videos, steps), highlight=False)
    folder = new_run_folder(config, manifest.content_id)
    write_provenance(folder, config, manifest.content_id)
    console.print(f"run: {folder}", highlight=False)
    train(config, data, manifest, folder, steps, console)
    finish(folder, time.monotonic() - start, console)


def find_data(config: Config, console: Console) -> tuple[str, Manifest]:
    """The shards a config names, or the made-up set, made if need be."""
    data = config.data.shards
    if data is None:
        from paramcrop.data.synthetic import cached_dataset

        console.print(
            f"data: made-up moving shapes (data.shards names none), kept in {home() / 'data'}", highlight=False
        )
        data = cached_dataset(home() / "data", config.data.clip_frames, config.data.clip_size, MADE_UP_VIDEOS)
    elif "://" not in data:
        data = str(Path(data).expanduser().resolve())
    return data, read_manifest(data)


def describe(config: Config, videos: int, steps: int) -> str:
    """What a run will do, in the figures that papers disagree on."""
    t = config.train
    return (
        f"{config.method}, {config.backbone.name}-{config.backbone.depth} (width {config.backbone.width}), "
        f"crops by {config.policy}\n"
        f"{videos} videos, {steps} steps of {t.global_batch} videos = {2 * t.global_batch} views, "
        f"{t.workers} worker(s)\n"
        f"effective learning rate {config.effective_lr:g} ({config.optim.name}; optim.lr {config.optim.lr:g}, "
        f"scaled by {config.optim.lr_scale}), croppers {config.cropper.lr:g}\n"
        f"loss by chance ln(2B-1) = {config.chance_loss:.3f}"
    )


def dry_run(config: Config, console: Console) -> None:
    import yaml

    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), highlight=False, end="")
    if config.data.shards is None:
        console.print(f"data: a made-up set of {MADE_UP_VIDEOS} videos", highlight=False)
        videos = MADE_UP_VIDEOS
    else:
        videos = read_manifest(config.data.shards).videos
    steps = config.total_steps(steps_per_epoch(videos, config.train.global_batch))
    console.print(describe(config, videos, steps), highlight=False)


def train(config: Config, data: str, manifest: Manifest, folder: Path, steps: int, console: Console) -> None:
    """Connect to Ray (or start it), divide the cluster, train."""
    from ray_jobs.engine.connect import cluster_nodes, connect
    from ray_jobs.engine.plan import plan_pretraining
    from ray_jobs.engine.train import run_pretraining

    connect(config.run.ray_logs)
    t = config.train
    plan = plan_pretraining(cluster_nodes(), t.workers, t.device, t.cpus_per_worker)
    console.print(f"resources: {plan.arithmetic}", highlight=False)
    with RunProgress(folder, steps, console):
        run_pretraining(config, plan, data, manifest, folder)


def finish(folder: Path, seconds: float, console: Console) -> None:
    """Figures, the table, and where everything lies."""
    from paramcrop.plots import plot_crops, plot_figure5

    plot_figure5({folder.name: [folder]}, folder / "figure5.png")
    plot_crops(folder, folder / "crops.png")
    metrics = read_metrics(folder)
    rows = {"start": metrics[0], "middle": metrics[len(metrics) // 2], "end": metrics[-1]}
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
        console.print(f"  {folder / name}  {text}", highlight=False)


CONTENTS = {
    "figure5.png": "centre distance and IoU of the two crops (the paper's Figure 5)",
    "crops.png": "the crops drawn on frames, at start, middle and end",
    "checkpoints": "weights",
    "metrics.jsonl": "every logged step; tensorboard/ beside it has the same",
    "samples.jsonl": "the video ids of each step",
    "config.yaml": "the resolved settings; provenance.json: commit and versions",
}

if __name__ == "__main__":
    run_command(main)
