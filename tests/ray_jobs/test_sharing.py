"""Several trials on one GPU: how a cluster is divided, what is refused, and the limit of each process's memory."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paramcrop.data.manifest import Manifest
from paramcrop.errors import ConfigError, ResourceError
from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.space import Space
from paramcrop.training.gpu import memory
from paramcrop.training.model_size import model_size
from ray_jobs import device
from ray_jobs.engine import nodes, worker
from ray_jobs.engine.admission import need_of_sweep
from ray_jobs.engine.evaluators import Evaluator
from ray_jobs.engine.plans.plan import Node
from ray_jobs.engine.plans.sweep import Sharing, SweepPlan, plan_sweep
from ray_jobs.launch_files.check import plain_nodes
from ray_jobs.sweep.gpu_memory import MARGIN, check_sharing, different, sharing_of, trial_memory
from ray_jobs.sweep.plan import Sweep, open_sweep
from tests.memory import tiny_config

ONE = [Node(16, 1, 80)]


def shares(plan: SweepPlan) -> tuple[int, float, float | None, float | None]:
    """Trials at once, each one's share of a GPU, and the limits of its memory and of an evaluator's."""
    return plan.trials, plan.pretraining.worker_gpus, plan.pretraining.memory_share, plan.evaluation.memory_share


def test_four_small_trials_share_a_gpu_with_their_evaluator() -> None:
    plan = plan_sweep(ONE, 1, sharing=Sharing(4, 10))
    assert shares(plan) == (4, 0.2, 0.2, 0.2)
    assert plan.arithmetic == (
        "1 node(s), 16 CPUs, 1 GPUs = 4 trial(s) at once x (1 worker(s) x (1 CPU, 0.2 GPU) + 2.74 CPUs for decoding + "
        "0.01 CPU) + 1 evaluator(s) x (1 CPU, 0.2 GPU); a trial takes about 10 GiB of GPU memory and may take 16 of a "
        "GPU's 80"
    )


def test_auto_is_as_many_as_memory_and_cpus_allow() -> None:
    for gib, trials in ((60.0, 1), (30.0, 2), (21.0, 3), (4.0, 4)):  # 64 of 80 GiB; and four CPUs for each of 16
        assert plan_sweep(ONE, 1, sharing=Sharing(None, gib)).trials == trials
    assert plan_sweep([Node(64, 1, 80)], 1, sharing=Sharing(None, 4.0)).trials == 16


def test_alone_on_its_gpu_a_trial_has_no_limit() -> None:
    alone = (1, 0.8, None, None)
    assert shares(plan_sweep(ONE, 1)) == shares(plan_sweep(ONE, 1, sharing=Sharing(None, 60))) == alone
    assert shares(plan_sweep(ONE, 1, sharing=Sharing(4, 10), left=1)) == alone
    assert shares(plan_sweep(ONE, 1, sharing=Sharing(None, 100))) == alone  # the estimate may be too careful


def test_several_gpus_keep_one_for_the_evaluators() -> None:
    plan = plan_sweep([Node(64, 4, 80)], 1, sharing=Sharing(3, 10))
    assert shares(plan) == (9, 0.3333, 0.3333, None)
    assert (plan.evaluation.actors, plan.evaluation.gpus, plan.gpus) == (1, 1, 4)
    fewer = plan_sweep([Node(64, 4, 80)], 1, trials=5, sharing=Sharing(3, 10))  # on two of the GPUs
    assert (fewer.trials, fewer.pretraining.worker_gpus, fewer.evaluation.actors, fewer.gpus) == (5, 0.5, 1, 4)


def test_trials_that_are_left_over_get_what_the_others_do_not_need() -> None:
    assert shares(plan_sweep(ONE, 1, sharing=Sharing(8, 4), left=2)) == (2, 0.4, 0.4, 0.2)
    assert plan_sweep([Node(64, 8)], 1, left=2).pretraining.data_cpus == 29.99
    assert plan_sweep([Node(16)], 1, left=2) == plan_sweep([Node(16)], 1)  # on CPUs, threads would be all they get


@pytest.mark.parametrize(
    ("cluster", "options", "message"),
    [
        (ONE, {"sharing": Sharing(5, 21)}, "a trial takes about 21 GiB, and 5 of them .* lower it to 3$"),
        (ONE, {"sharing": Sharing(2, 60)}, "may take 64 of a GPU's 80 GiB; leave it out$"),
        ([Node(16, 1, 80), Node(16, 1, 24)], {"sharing": Sharing(3, 10)}, "of a GPU's 24 GiB"),
        ([Node(4, 1, 80)], {"sharing": Sharing(4, 9)}, "lower --trials-per-gpu, --concurrent or train"),
        (ONE, {"sharing": Sharing(2, 9), "trials": 3}, "3 trial.s. at once must fit .* only 2 do"),
    ],
)
def test_what_does_not_fit_a_gpu_is_refused(cluster: list[Node], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ResourceError, match=message) as raised:
        plan_sweep(cluster, 1, **options)
    assert "\n" not in str(raised.value)


def test_auto_leaves_trials_alone_that_cannot_share() -> None:
    assert plan_sweep([Node(16, 4, 80)], 2, sharing=Sharing(None, 9)).trials == 1
    assert plan_sweep([Node(16)], 1, sharing=Sharing(None, 9)).trials == 4
    unknown = plan_sweep([Node(16, 1)], 1, sharing=Sharing(None, 9))
    assert unknown.trials == 1 and unknown.arithmetic.endswith("9 GiB of GPU memory; that of the GPUs is not known")


def test_a_command_claims_every_gpu_of_which_it_has_a_part() -> None:
    assert need_of_sweep(plan_sweep([Node(64, 8)], 8)).gpus == 8  # 0.8 of each: nobody else finds a whole one
    assert need_of_sweep(plan_sweep([Node(64, 4, 80)], 1, trials=5, sharing=Sharing(3, 10))).gpus == 4
    assert need_of_sweep(plan_sweep([Node(64, 4)], 1)).gpus == 4


def test_a_list_of_nodes_may_say_how_large_their_gpus_are() -> None:
    assert plain_nodes([{"cpus": 16, "gpus": 1, "gpu_gib": 80, "count": 2}], "nodes.yaml") == [Node(16, 1, 80)] * 2
    assert plain_nodes([{"cpus": 16}], "nodes.yaml") == [Node(16)]


def sweep_of(tmp_path: Path, shards: tuple[str, Manifest], **fields: Any) -> Sweep:
    """A sweep that would train on GPUs."""
    given = {"question": "?", "set": {"data.shards": shards[0]}, "evaluate": {"tasks": []}}
    return open_sweep(Mirror(tmp_path / "sweep"), Space.model_validate(given | fields), {}, lambda config: "cuda")


def test_the_largest_trial_says_how_much_memory_a_trial_takes(tmp_path: Path, shards: tuple[str, Manifest]) -> None:
    sweep = sweep_of(tmp_path, shards, params={"train.global_batch": [4, 16], "optim.lr": [0.1, 0.2]})
    assert [config.train.global_batch for config in different(sweep)] == [4, 16]
    gib = trial_memory(sweep)
    assert gib == pytest.approx(MARGIN * model_size(different(sweep)[1]).memory / 2**30 + memory.CONTEXT)
    assert sharing_of(sweep, "1") is None
    assert (sharing_of(sweep, "auto"), sharing_of(sweep, "3")) == (Sharing(None, gib), Sharing(3, gib))


def test_only_trials_with_one_worker_on_gpus_share(tmp_path: Path, shards: tuple[str, Manifest]) -> None:
    given = {"data.shards": shards[0], "train.workers": 2}
    several = sweep_of(tmp_path, shards, params={"optim.lr": [0.1]}, set=given)
    check_sharing(several, "auto")
    assert sharing_of(several, "auto") is None
    with pytest.raises(ConfigError, match=r"--trials-per-gpu 2 needs train\.workers=1, but it is 2: NCCL refuses two"):
        check_sharing(several, "2")


def test_a_search_is_judged_by_the_largest_that_it_may_draw(tmp_path: Path, shards: tuple[str, Manifest]) -> None:
    params = {
        "projector.hidden": {"int": [16, 64]},
        "backbone.name": {"choice": ["r2d3d", "s3dg"]},
        "optim.lr": {"uniform": [0.1, 0.2]},
    }
    found = different(sweep_of(tmp_path, shards, params=params, search="random", samples=2))
    assert {(config.backbone.name, config.projector.hidden) for config in found} == {("r2d3d", 64), ("s3dg", 64)}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Torch sees two GPUs, of 80 and 24 GiB; the fraction that a process is limited to."""
    found, limits = [SimpleNamespace(total_memory=gib * 2**30) for gib in (80, 24)], dict[str, float]()
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(found))
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda at: found[at if isinstance(at, int) else at.index or 0]
    )
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda share, at: limits.update({str(at): share}))
    return limits


def test_the_limit_counts_the_context_of_the_process(card: dict[str, float]) -> None:
    assert memory.limit_memory(0.2, torch.device("cuda", 0)) == 15 and card["cuda:0"] == 15 / 80
    assert memory.limit_memory(0.01, torch.device("cuda", 1)) == 0 == card["cuda:1"]


def test_the_smallest_gpu_of_a_machine_and_of_a_cluster_counts(
    card: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "DRIVERS", ("null",))
    assert device.this_machine() == Node(os.cpu_count() or 1, 2, 24)
    monkeypatch.setattr(device, "DRIVERS", ("no-such-device",))
    assert device.this_machine() == Node(os.cpu_count() or 1)
    alive = [
        {"NodeID": name, "NodeManagerHostname": name, "Alive": True, "Resources": resources}
        for name, resources in {"head": {"CPU": 4}, "a": {"GPU": 1}, "b": {"GPU": 1}}.items()
    ]
    monkeypatch.setattr("ray.nodes", lambda: alive)
    sizes = {"a": 80.0, "b": 24.0}
    monkeypatch.setattr(nodes, "_answers", lambda asked, function: [(host, sizes[host]) for host in asked.values()])
    assert nodes.with_cards([Node(4), Node(8, 1), Node(8, 1)]) == [Node(4), Node(8, 1, 24), Node(8, 1, 24)]
    sizes["b"] = 0.0
    with pytest.raises(ResourceError, match="memory of all GPUs, but torch sees none on b; leave it out"):
        nodes.with_cards([Node(8, 1)])


def too_much(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_a_trial_that_takes_more_than_its_part_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(worker, "limit_memory", lambda share, device: 15.0)
    monkeypatch.setattr(worker, "pretrain", too_much)
    monkeypatch.setattr("ray.train.get_dataset_shard", lambda name: SimpleNamespace(iter_batches=lambda **_: []))
    job = {"config": tiny_config().model_dump(), "steps_per_epoch": 1, "threads": 1, "classes": (), "probe": None}
    job |= {"folder": str(tmp_path), "uri": "", "lease": "", "memory_share": 0.2}
    (tmp_path / "config.yaml").touch()
    message = "it must fit its part of a GPU, 15 GiB, but needs more; lower --trials-per-gpu, or leave it out"
    assert worker.train_worker(job) == ("ResourceError", message)
    with pytest.raises(torch.OutOfMemoryError):  # alone on a GPU, it is an error like others
        worker.train_worker(job | {"memory_share": None})


def test_an_evaluation_that_takes_more_than_its_part_ends_with_one_line(
    tmp_path: Path, card: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "_hold_and_evaluate", too_much)
    job: Any = SimpleNamespace(uri="", run=str(tmp_path), settled=False)
    kind, text = Evaluator(1, gpu=True, ahead=1, timeout=30, memory_share=0.2).evaluate(job) or ("", "")
    assert kind == "ResourceError" and text.startswith("it must fit its part of a GPU, 15 GiB")
    with pytest.raises(torch.OutOfMemoryError):
        Evaluator(1, gpu=True, ahead=1, timeout=30).evaluate(job)
