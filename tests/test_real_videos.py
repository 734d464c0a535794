"""The paper's sizes on real recordings, the whole way below Ray: transcode, shards, decode, augment, crop, train."""

from __future__ import annotations

from pathlib import Path

import torch

from paramcrop.data.batch import to_batch
from paramcrop.data.prepare.source import transcode
from paramcrop.data.samples import epoch_batches
from paramcrop.data.shards import Video, write_shards
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import build_model


def test_real_videos_train_at_the_papers_sizes(real_videos: Path, tmp_path: Path) -> None:
    paths = sorted(p for p in (real_videos / "small").iterdir() if p.suffix in (".avi", ".mkv"))
    encoded = [(p.name, transcode(p)) for p in paths]
    rows = [Video(name, e.data, e.fps, e.frames, e.height, e.width) for name, e in encoded]
    manifest = write_shards(rows, str(tmp_path), row_group_rows=4)
    config = load_config(
        "k400_simclr_r2d3d18", None, ["train.global_batch=4", "backbone.depth=10", "backbone.width=16"]
    )
    model = build_model(config, torch.device("cpu"))
    optimizer = build_optimizer(config, model.policy, model.method)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step, columns in enumerate(epoch_batches(str(tmp_path), manifest, build_clip_spec(config), 0, 0, 4)):
        batch = to_batch(columns)
        assert batch.video.shape == (4, 2, 64, 128, 128, 3)
        assert batch.error == [""] * 4
        assert batch.video.float().std() > 10  # pictures, not blanks
        set_lr(optimizer, step, 10, 0)
        loss, scalars = train_step(model, batch, optimizer, 0.0)
        assert torch.tensor(loss).isfinite()
        assert 0.5 < scalars["crop_iou"] < 1
    assert step == len(paths) // 4 - 1
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []
