from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramcrop.data.batch import Batch, check_order, shard_batch
from paramcrop.errors import ConfigError, DecodeFailuresError, NonFiniteLossError
from paramcrop.settings.config import Config
from paramcrop.storage.checkpoint import load_checkpoint, newest_checkpoint
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import check_failures, pretrain, train_step
from paramcrop.training.recorder import Recorder
from paramcrop.training.two_views import build_model, distribute
from tests.memory import MetricsInMemory, made_clips, memory_batches, on_two_ranks, tiny_config

CPU = torch.device("cpu")


def tiny_batches(config: Config, videos: int = 16) -> Any:
    clips = made_clips(videos, config.data.clip_frames, config.data.clip_size)
    return memory_batches(clips, build_clip_spec(config), config.seed, config.train.global_batch)


def gradients(config: Config, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    model = build_model(config, CPU)
    wrapped = distribute(model, CPU)
    loss, _ = wrapped(batch, 0.0)
    loss.backward()
    from paramcrop import dist

    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return dist.mean_over_ranks(loss).item(), named


def _gradients_of_my_half() -> tuple[float, dict[str, Tensor]]:
    from paramcrop import dist

    config = tiny_config("backbone.norm=group", "augment.jitter=1")
    batch = next(tiny_batches(config)(0))
    return gradients(config, shard_batch(batch, dist.rank(), dist.world_size()))


def test_two_ranks_equal_one_in_loss_and_in_every_gradient(tmp_path: Path) -> None:
    """Backbone, projector and both croppers, through crop, augmentation and the gathered loss."""
    config = tiny_config("backbone.norm=group", "augment.jitter=1")
    loss, expected = gradients(config, next(tiny_batches(config)(0)))
    assert {name.split(".")[0] for name in expected} == {"policy", "method"}
    for rank_loss, named in on_two_ranks(_gradients_of_my_half, tmp_path):
        assert rank_loss == pytest.approx(loss, abs=1e-5)
        assert named.keys() == expected.keys()
        for name, grad in named.items():
            torch.testing.assert_close(grad, expected[name], atol=1e-5, rtol=0, msg=name)
    assert expected["policy.croppers.0.0.weight"].abs().max() > 1e-5  # they are not equal only because all are zero


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
@pytest.mark.parametrize("crop", ["cropper.axes=both", "cropper.rotation=30", "cropper.layers=3"])
def test_every_trainable_tensor_has_moved_after_ten_steps(optimizer: str, crop: str) -> None:
    # The croppers' gradients are small at first. At the demo's rate, a step can be below the resolution of float32.
    extra = ("projector.batch_norm=true", "cropper.batch_norm=true", "cropper.lr=0.1")
    config = tiny_config(f"optim.name={optimizer}", crop, *extra)
    model = build_model(config, CPU)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = build_optimizer(config, model.policy, model.method)
    batches = tiny_batches(config)
    for i, batch in enumerate(b for epoch in range(5) for b in batches(epoch)):
        set_lr(step, i, 20, 2)
        train_step(model, batch, step, 0.0)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_the_network_lowers_the_loss_and_the_croppers_raise_it() -> None:
    """Each takes one step alone on the same batch."""
    config = tiny_config("backbone.norm=group")
    batch = next(tiny_batches(config)(0))
    model = build_model(config, CPU)
    loss, _ = model(batch, 0.0)
    loss.backward()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def after_moving(part: str, rate: float) -> float:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name] - (rate * p.grad if name.startswith(part) and p.grad is not None else 0))
            return float(model(batch, 0.0)[0])

    assert after_moving("method", 1e-3) < loss.item()
    # Eq. 8 makes the loss a step function of time, so only the gradient in space is followed here.
    config = tiny_config("backbone.norm=group", "cropper.axes=spatial")
    model = build_model(config, CPU)
    loss, _ = model(batch, 0.0)
    loss.backward()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert after_moving("policy", 1e-2) > loss.item()


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("train.epochs=3")
    batches, model = tiny_batches(config), build_model(config, CPU)
    monkeypatch.setattr("paramcrop.training.pretrain.build_model", lambda *_: model)
    seen: list[Batch] = []
    before: dict[str, Tensor] = {}

    def poisoned(epoch: int) -> Any:
        for batch in batches(epoch):
            seen.append(batch)
            before.update({name: p.detach().clone() for name, p in model.named_parameters()})
            yield batch._replace(noise=batch.noise * float("nan")) if len(seen) == 4 else batch

    with pytest.raises(NonFiniteLossError, match=r"but is nan on rank 0 at step 4 \(epoch 2\); run: .*run"):
        pretrain(config, poisoned, 2, Recorder(tmp_path / "run"))
    assert len(seen) == 4
    assert before and [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == []


def test_nan_gradients_never_reach_the_weights() -> None:
    config = tiny_config()
    model = build_model(config, CPU)
    optimizer = build_optimizer(config, model.policy, model.method)
    batch = next(tiny_batches(config)(0))
    with pytest.raises(NonFiniteLossError):
        train_step(model, batch._replace(noise=batch.noise * float("nan")), optimizer, 0.0)
    untouched = build_model(config, CPU).parameters()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), untouched, strict=True))


def test_gradient_clipping_limits_the_network_but_not_the_croppers() -> None:
    config = tiny_config("optim.clip_norm=0.001", "optim.weight_decay=0")
    model = build_model(config, CPU)
    optimizer = build_optimizer(config, model.policy, model.method)
    _, scalars = train_step(model, next(tiny_batches(config)(0)), optimizer, 0.0)
    assert scalars["grad_norm"] > 0.001  # before clipping
    clipped = torch.stack([p.grad.norm() for p in model.method.parameters() if p.grad is not None]).norm()
    assert clipped.item() == pytest.approx(0.001, rel=1e-3)


def test_gradient_clipping_limits_both_croppers_together_but_not_the_network() -> None:
    """S3D-G's croppers have gradients a hundred times those of R-2D3D-18 and reached the bounds within 20 steps."""
    gradients = list[list[torch.Tensor]]()
    for config in (tiny_config("cropper.clip_norm=0.0001"), tiny_config()):
        model = build_model(config, CPU)
        optimizer = build_optimizer(config, model.policy, model.method)
        _, scalars = train_step(model, next(tiny_batches(config)(0)), optimizer, 0.0)
        gradients.append([p.grad for p in model.method.parameters() if p.grad is not None])
        assert "grad_norm" not in scalars
        if config.cropper.clip_norm is not None:
            assert scalars["grad_norm_cropper"] > 0.0001  # before clipping
            clipped = torch.stack([p.grad.norm() for p in model.policy.parameters() if p.grad is not None]).norm()
            assert clipped.item() == pytest.approx(0.0001, rel=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_run_writes_metrics_ids_crops_and_a_checkpoint(tmp_path: Path) -> None:
    config = tiny_config("train.epochs=3", "run.log_every=2", "run.checkpoint_epochs=2")
    recorder, reports = Recorder(tmp_path), list[dict[str, float]]()
    model = pretrain(config, tiny_batches(config), 2, recorder, reports.append)
    recorder.close()
    metrics = read_metrics(tmp_path)
    assert [m["step"] for m in metrics] == [1, 2, 4, 6]
    wanted = {"loss", "lr", "lr_cropper", "similarity_positive", "similarity_negative", "saturated", "clips_per_s"}
    wanted |= {"data_wait", "crop_distance", "crop_iou", "source_distance", "source_iou", "epoch"}
    assert wanted | {f"{p}_{i}" for p in ("s_p", "s_t", "theta", "dx", "dy", "dt") for i in (1, 2)} <= metrics[0].keys()
    samples = read_lines(tmp_path / "samples.jsonl")
    assert [s["step"] for s in samples] == [1, 2, 3, 4, 5, 6]
    shown = [batch.id for epoch in range(3) for batch in tiny_batches(config)(epoch)]
    assert [s["ids"] for s in samples] == shown  # in the order of their positions
    snapshots = [np.load(path) for path in sorted((tmp_path / "crops").glob("*.npz"))]
    assert [s["boxes"].shape for s in snapshots] == [(4, 2, 3, 2)] * 3
    assert all((s["id"] == snapshots[0]["id"]).all() for s in snapshots)  # the same videos in all snapshots
    assert list((tmp_path / "tensorboard").iterdir())
    assert [(r["epoch"], r["step"]) for r in reports] == [(2, 4), (3, 6)]  # finished epochs and steps
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "epoch=0003"
    state, meta = load_checkpoint(newest)
    assert (meta["epoch"], meta["step"], meta["workers"]) == (3, 6, 1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(state["model"][name], tensor)


def test_only_the_network_runs_in_half_precision() -> None:
    """The default on GPUs, here on the CPU: the network under bfloat16 autocast; weights, crops and loss in float32."""
    config = tiny_config("train.precision=bfloat16", "train.max_steps=2", "run.log_every=1")
    recorder = MetricsInMemory()
    model = pretrain(config, tiny_batches(config), 2, recorder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    full = MetricsInMemory()
    pretrain(tiny_config("train.max_steps=2", "run.log_every=1"), tiny_batches(config), 2, full)
    assert recorder.lines[0]["crop_distance"] == full.lines[0]["crop_distance"]
    assert recorder.lines[0]["loss"] == pytest.approx(full.lines[0]["loss"], rel=0.05)
    assert recorder.lines[0]["loss"] != full.lines[0]["loss"]


def test_steps_can_be_limited() -> None:
    recorder = MetricsInMemory()
    pretrain(tiny_config("train.max_steps=3", "run.log_every=1"), tiny_batches(tiny_config()), 2, recorder)
    assert [line["step"] for line in recorder.lines] == [1, 2, 3]


def test_an_unfinished_checkpoint_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "epoch=0009").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch=0009" / "state.pt").write_bytes(b"torn")
    assert newest_checkpoint(tmp_path) == (None, ["epoch=0009: meta.json is missing"])


def test_equal_runs_are_equal_bit_for_bit() -> None:
    config = tiny_config("train.epochs=2")
    first, second = (pretrain(config, tiny_batches(config), 2, MetricsInMemory()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_data_that_ends_early_or_is_out_of_order_is_an_error() -> None:
    config = tiny_config()
    batches = tiny_batches(config)
    with pytest.raises(RuntimeError, match="an epoch must have 2 steps, but its data ended after 1"):
        pretrain(config, lambda epoch: islice(batches(epoch), 1), 2, MetricsInMemory())
    batch = next(batches(0))
    check_order(batch, 0, 0, 8)
    for epoch, step in ((1, 0), (0, 1)):
        with pytest.raises(AssertionError, match="rows must belong to epoch"):
            check_order(batch, epoch, step, 8)


def test_too_many_failed_samples_stop_the_run_and_are_listed() -> None:
    failed = ["b (no keyframe)", "c (torn)"]
    check_failures(failed, 0.5, 4)
    with pytest.raises(
        DecodeFailuresError, match=r"2 of 4 .* more than data.max_failed=0.4 allows: b \(no keyframe\); c \(torn\)"
    ):
        check_failures(failed, 0.4, 4)
    config = tiny_config("data.max_failed=0.2")
    broken = [b._replace(error=["", "torn", *b.error[2:]]) for b in tiny_batches(config)(0)]
    pretrain(tiny_config("train.epochs=1", "data.max_failed=0.2"), lambda epoch: broken, 2, MetricsInMemory())
    with pytest.raises(DecodeFailuresError, match=r"2 of 16 samples could not be decoded, .* allows: \d+ \(torn\)"):
        pretrain(tiny_config("train.epochs=1", "data.max_failed=0.1"), lambda epoch: broken, 2, MetricsInMemory())


def losses_and_names(folder: Path, *settings: str) -> tuple[list[float], list[str]]:
    config = tiny_config("train.epochs=1", "run.log_every=1", *settings)
    recorder = Recorder(folder)
    pretrain(config, tiny_batches(config, 48), 48 // config.train.global_batch, recorder)
    recorder.close()
    newest, _ = newest_checkpoint(folder)
    assert newest is not None
    return [line["loss"] for line in read_metrics(folder)], sorted(load_checkpoint(newest)[0]["model"])


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_has_the_same_losses_and_names(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = list[Any]()

    def compiled(*given: Any, **options: Any) -> Any:
        used.append(given)
        return real(*given, **options)

    real = partial(torch.compile, backend=compiler)
    monkeypatch.setattr(torch, "compile", compiled)
    losses, names = losses_and_names(tmp_path / "plain", "method=moco")
    assert not used
    found, same = losses_and_names(tmp_path / "compiled", "method=moco", "train.compile=true")
    assert len(used) == 2 and names == same
    assert found == pytest.approx(losses, abs=1e-2)  # the first step's is equal; the others' differences grow
    assert found[0] == pytest.approx(losses[0], abs=1e-4)


def test_compiling_without_a_compiler_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramcrop.training.two_views.which", lambda name: None)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler, but there is no"):
        losses_and_names(tmp_path, "train.compile=true")
