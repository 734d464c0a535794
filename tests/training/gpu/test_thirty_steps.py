"""Thirty steps of the demo with every kernel, under Triton's interpreter, against the same steps without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from paramcrop.crops import kernels, views
from paramcrop.crops.geometry import CropParams
from paramcrop.models import fused, layers
from paramcrop.training import optim
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.gpu import lars_kernels
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import build_model
from tests.memory import made_clips, memory_batches, tiny_config

STEPS = 30
SMALL = ("cropper.size=16", "train.global_batch=4", "optim.name=lars", "optim.lr=0.2", "augment.jitter=0.8")
LARGE = (
    *((kernels, "BLOCK", 1024), (kernels, "MEAN_BLOCK", 4096), (lars_kernels, "CHUNK", 1 << 17)),
    *((fused, "PROGRAMS", 4), (fused, "TILE", 1 << 16), (fused, "POOL_TILE", 1 << 14)),
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
used: dict[str, int] = {}


def losses() -> list[float]:
    """The losses of the demo's steps, at a size that the interpreter can take."""
    config = tiny_config(*SMALL)
    torch.manual_seed(0)
    model = build_model(config, DEVICE)
    optimizer = build_optimizer(config, model.policy, model.method)
    clips = made_clips(8, config.data.clip_frames, config.data.clip_size)
    batches, found = memory_batches(clips, build_clip_spec(config), 0, config.train.global_batch), list[float]()
    for epoch in range(STEPS // 2):  # of two steps
        for batch in batches(epoch):
            set_lr(optimizer, len(found), STEPS, 4)
            found.append(train_step(model, batch.to(DEVICE), optimizer, len(found) / STEPS)[0])
    return found


def kernels_everywhere(patch: pytest.MonkeyPatch) -> None:
    def view(video: Tensor, params: CropParams) -> bool:
        used["view"] = used.get("view", 0) + 1
        return True

    def network(x: Tensor) -> bool:
        used["network"] = used.get("network", 0) + (x.ndim == 5)
        return x.ndim == 5

    def update(params: list[Tensor]) -> bool:
        used["update"] = used.get("update", 0) + 1
        return True

    patch.setattr(views, "fits", view)
    patch.setattr(layers, "on_gpu", network)
    patch.setattr(optim, "fits_kernels", update)


@pytest.mark.slow
def test_thirty_steps_have_the_losses_of_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE.type == "cpu":  # a program takes long to interpret, however much it computes
        for module, name, value in LARGE:
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(views, "fits", lambda video, params: False)
    plain = losses()
    used.clear()
    kernels_everywhere(monkeypatch)
    fused_losses = losses()
    assert used["view"] == 2 * STEPS and used["update"] >= STEPS and used["network"] > 10 * STEPS
    assert plain[-1] < plain[0] - 0.1, plain
    torch.testing.assert_close(fused_losses, plain, rtol=0, atol=1e-3)
