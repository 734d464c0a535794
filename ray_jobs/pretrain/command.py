"""Pretrain with ParamCrop on Ray: `paramcrop pretrain [--preset NAME] [--config FILE] [key=value ...]`.

Without arguments: the demo's settings on synthetic videos, on a local Ray unless one is running, with Figure 5 at the
end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from rich.console import Console

from paramcrop.data.manifest import Manifest
from paramcrop.data.order import steps_per_epoch
from paramcrop.errors import Abandoned, DataError
from paramcrop.settings.config import Config
from paramcrop.settings.identity import run_id
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.owner import hold, set_aside
from paramcrop.storage.runs import ask_to_stop, begin, ending, is_finished, older_run, read_status, run_place
from ray_jobs.device import find_device
from ray_jobs.engine.plans.elastic import Elastic, most_workers, plan_elastic, plan_for, room_of
from ray_jobs.engine.plans.plan import Node, Plan, plan_pretraining
from ray_jobs.options import check_classes, check_cluster_option, config_parser, parse_config, probe_data, uncollected
from ray_jobs.pretrain.interrupt import interruptible
from ray_jobs.pretrain.progress import Attempt, run_progress
from ray_jobs.pretrain.report import describe, print_ending, settings_text
from ray_jobs.videos import MADE_UP_VIDEOS, all_warnings, find_videos, setting_warnings, size_warnings

PICTURES = ("figure5.png", "crops.png", "crop_parameters.png")


def main(argv: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    arguments = parse_arguments(argv)
    config = parse_config(arguments)
    if not arguments.dry_run:
        pretrain(config, arguments.fresh, console)
        return
    with uncollected():
        on = config.on(find_device(config, arguments.cluster)) if arguments.cluster else config
        dry_run(on, console, arguments.preset)
        if arguments.cluster:
            plan_cluster(arguments.cluster, config, console)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = config_parser("paramcrop pretrain", "Pretrain with ParamCrop on Ray.", "demo", argv)
    text = "with --dry-run: check this launch file (or aws, gcp, raycluster, rayjob) or list of nodes, and plan for it"
    parser.add_argument("--cluster", metavar="FILE", help=text)
    parser.add_argument("--fresh", action="store_true", help="start the run afresh; the old one is kept as NAME-ID~1")
    arguments = parser.parse_args(argv)
    check_cluster_option(arguments)
    return arguments


def pretrain(config: Config, fresh: bool, console: Console) -> None:
    """Check everything that can be wrong, then train what is left of the run, and report."""
    say = partial(console.print, highlight=False)
    from paramcrop.training.tracking.trackers import check_trackers

    start = time.monotonic()
    data, manifest = find_videos(config, say)
    check_classes([config])
    check_trackers(config.run.trackers)
    check_probe(config)
    check_decoder(config)
    config = config.on(find_device(config))
    steps = config.total_steps(steps_per_epoch(manifest.videos, config.train.global_batch, config.labelled_rows))
    place = run_place(config, manifest.data_id)
    place.fetch("status.json", "checkpoints/", light=True)
    if not fresh and is_finished(place.folder):
        say(f"already finished: {place} ({steps} steps); --fresh starts it afresh")
        return
    with hold(place, say) as lease:
        if fresh and (aside := set_aside(place)):
            say(f"--fresh: the old run is now {aside}")
        for line in introduction(config, manifest, place, steps):
            say(line)
        begin(place, config, manifest.data_id, manifest.about | {"content_id": manifest.content_id}, say)
        with writing_page(place, say), ending(place, steps):
            train(config, data, manifest, place, lease.path, steps, console)
        if (state := read_status(place.folder)["state"]) != "finished":
            say(f"{state} of {config.train.epochs} epochs, because of {place}/stop; the same command resumes the run")
            return
        finish(place, config.run.trackers, steps, time.monotonic() - start, console)


@contextmanager
def writing_page(place: Mirror, say: Callable[..., None]) -> Iterator[None]:
    """Write the run's page at the end, however it ends, unless the process is to end at once."""
    from paramcrop.report.run_page import refresh_page

    ends_now = False
    try:
        yield
    except Abandoned:
        ends_now = True
        raise
    finally:
        for line in [] if ends_now else refresh_page(place):
            say(line, markup=False)


def check_decoder(config: Config) -> None:
    """Raises: ConfigError: what ``data.decoder`` names is not installed."""
    if config.data.decoder != "planes":  # which needs no more than the package does
        from paramcrop.data import video

        video.check_decoder(config.data.decoder)


def check_probe(config: Config) -> None:
    """Raises: DataError: the probe's set does not suit. It is refused before anything is trained or set aside."""
    if (probed := probe_data(config)) is not None:
        from paramcrop.evaluation.probe import open_splits

        open_splits(probed)


def introduction(config: Config, manifest: Manifest, place: Mirror, steps: int) -> Iterator[str]:
    """What a run says before it starts: of an older version's run, its settings, warnings, and where it lies."""
    if read_status(place.folder)["state"] == "new" and (older := older_run(config, manifest.content_id)):
        text = f"note: an older version of the method made {older} from these settings; it stays as it is"
        yield f"{text}, `paramcrop evaluate --run` reads it, and this run starts afresh"
    yield describe(config, manifest.videos, steps, manifest.classes)
    yield from all_warnings(config, manifest)
    if config.data.split is None and len(manifest.splits) > 1:
        yield (f"note: pretraining on the videos of all splits: {', '.join(manifest.splits)}; data.split selects one")
    yield f"run: {place}"


def dry_run(config: Config, console: Console, preset: str) -> None:
    """Print the settings and key figures. Counting the model's parameters needs torch, but no weights are made."""
    from paramcrop.data.synthetic import CLASSES

    console.print(settings_text(config, preset), highlight=False, markup=False)
    videos: int | None
    classes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    if config.data.shards is not None:
        manifest = find_videos(config)[1]
        videos, classes, warnings = manifest.videos, manifest.classes, size_warnings(config, manifest)
        console.print(run_ids(config, manifest.data_id), highlight=False)
    elif config.data.split is None and config.train.global_batch <= MADE_UP_VIDEOS:
        videos, classes = MADE_UP_VIDEOS, CLASSES
        console.print(f"data: a synthetic set of {videos} videos", highlight=False)
    else:
        videos = None
        console.print("data: not set; set data.shards to a folder or URI of shards", highlight=False)
    per_epoch = steps_per_epoch(videos, config.train.global_batch, config.labelled_rows) if videos else None
    steps = None if per_epoch is None else config.total_steps(per_epoch)
    warnings = [*warnings, *(setting_warnings(config, per_epoch) if per_epoch else ())]
    console.print(describe(config, videos, steps, classes), highlight=False)
    for line in warnings:
        console.print(line, highlight=False)


def run_ids(config: Config, data_id: str) -> str:
    """The run's id, or that on each kind of device if the device is not known yet."""
    devices = {"CPUs": "cpu", "GPUs": "cuda"}
    ids = {name: run_id(config.on(device), data_id) for name, device in devices.items()}
    if config.train.device != "auto" or len(set(ids.values())) == 1:
        return f"run id {run_id(config, data_id)}"
    return "run id " + ", ".join(f"{found} on {name}" for name, found in ids.items())


def plan_cluster(path: str, config: Config, console: Console) -> None:
    """Print the nodes and problems of a launch file, and how this run would divide its nodes.

    Raises:
        ConfigError, ResourceError: the file has a problem, or the run does not fit.
    """
    from ray_jobs.launch_files.check import check_cluster, describe_cluster, raise_problems

    cluster = check_cluster(path, config)
    console.print(describe_cluster(path, cluster), highlight=False, markup=False)
    console.print(f"resources, with all nodes: {plan_of(config, cluster.nodes).arithmetic}", highlight=False)
    raise_problems(path, cluster)


def plan_of(config: Config, nodes: list[Node]) -> Plan:
    return plans_of(config, nodes)[0]


def plans_of(config: Config, nodes: list[Node]) -> tuple[Plan, Elastic | None]:
    """The plan to begin with, and for a range of workers how it may change.

    Raises:
        ResourceError: the run does not fit.
    """
    t, counts = config.train, config.worker_counts
    if not config.elastic:
        return plan_pretraining(nodes, counts[0], t.device, t.cpus_per_worker, t.data_cpus or 1), None
    elastic, room = plan_elastic(nodes, counts, t.device, t.cpus_per_worker, t.data_cpus), room_of(nodes)
    return plan_for(elastic, room, most_workers(elastic, room)), elastic


def train(
    config: Config, data: str, manifest: Manifest, place: Mirror, lease: str, steps: int, console: Console
) -> None:
    """Connect to Ray (or start it), divide the cluster, and train the remaining steps."""
    from paramcrop.storage.checkpoint import newest_checkpoint, steps_done

    newest, passed_over = newest_checkpoint(place.folder, place.fetch)
    for line in passed_over:
        console.print(f"skipped a damaged checkpoint: {line}", highlight=False)
    _, done = steps_done(newest)
    if newest:
        console.print(f"resuming from {newest.name}, step {done} of {steps}", highlight=False)
    if done == steps:
        return
    from ray_jobs.engine.admission import admitted, named, need_of_elastic, need_of_pretraining, within
    from ray_jobs.engine.connect import connect, connection, planned
    from ray_jobs.engine.elastic import plan_to_begin
    from ray_jobs.engine.nodes import check_visible
    from ray_jobs.engine.train import Pretraining, run_pretraining

    say = partial(console.print, highlight=False, markup=False)
    connect(config.run.ray_logs, trains=True)
    say(connection())
    with ExitStack() as stack:
        plan, elastic = stack.enter_context(planned(config, partial(plans_of, config), say))
        check_visible([place], [data])  # on the nodes that have come, before it waits for other commands
        need = need_of_elastic(elastic) if elastic else need_of_pretraining(plan, config.train.data_cpus)
        what = f"pretrain {place.folder.name}"
        cpus = stack.enter_context(admitted(need, what, say))
        plan = plan_to_begin(elastic, named(what)) if elastic else within(plan, cpus)
        say(f"resources: {plan.arithmetic}")
        run = Pretraining(config, plan, data, manifest, place, lease, elastic, named(what))
        attempt = Attempt(place)
        with run_progress(attempt, steps, console), saying_what_is_kept(place, steps):
            interruptible(partial(run_pretraining, run), partial(ask_to_save, attempt, say), attempt.saved)


def ask_to_save(attempt: Attempt, say: Callable[[str], None]) -> bool:
    """Ask the workers to save a checkpoint and end -> whether they have taken a step that is worth it."""
    with suppress(OSError):
        attempt.place.fetch("history.jsonl", "metrics.jsonl", waits=())
    if attempt.latest() is None:
        return False
    try:
        ask_to_stop(str(attempt.place), now=True)
    except (OSError, DataError):  # a full disk, or a store that does not answer
        return False
    say("interrupted: the run saves a checkpoint at the step that it has reached, then ends; Ctrl-C again ends it now")
    return True


@contextmanager
def saying_what_is_kept(place: Mirror, steps: int) -> Iterator[None]:
    """Give Ctrl-C's exception a text: the step of the newest checkpoint."""
    from paramcrop.storage.checkpoint import newest_checkpoint, steps_done

    try:
        yield
    except KeyboardInterrupt as error:
        newest = None
        with suppress(OSError, DataError):
            place.fetch("checkpoints/", light=True, waits=())
            newest, _ = newest_checkpoint(place.folder, partial(place.fetch, waits=()))
        if newest is None:
            raise type(error)("interrupted before the first checkpoint; the same command starts again") from None
        reached = f"the run is kept up to step {steps_done(newest)[1]} of {steps}"
        raise type(error)(f"interrupted; {reached}, and the same command continues from there") from None


def finish(place: Mirror, trackers: Sequence[str], steps: int, seconds: float, console: Console) -> None:
    """Draw the figures, which the trackers get, and print the table and the paths of the files."""
    from paramcrop.report.crop_pictures import plot_crops
    from paramcrop.report.plots import plot_figure5, plot_parameters
    from paramcrop.training.recorder import TRACKED
    from paramcrop.training.tracking.after import track_pictures

    folder = place.folder
    plot_figure5({folder.name: [folder]}, folder / "figure5.png")
    plot_crops({folder.name: folder}, folder / "crops.png", videos=(0, 1))
    plot_parameters(folder, folder / "crop_parameters.png")
    for line in track_pictures(trackers, folder, steps, PICTURES):
        console.print(line, highlight=False, markup=False)
    place.send(*PICTURES, *TRACKED)
    print_ending(place, seconds, console)
