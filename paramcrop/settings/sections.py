"""The settings of data, crops, networks and optimiser, section by section, with the paper's value as the default.

Where the paper is silent (marked "not in the paper"), the default is the likeliest value and the field can be swept.
Models are frozen and reject unknown keys.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, JsonValue, ValidationInfo, field_validator, model_validator

from paramcrop.settings.custom import is_custom, source_of
from paramcrop.settings.fields import STRICT, check_kwargs, check_name, named, option, share

BACKBONES = ("r2d3d", "s3dg", "s3d")  # backbone.name; built in paramcrop/training/build.py
POLICIES = ("paramcrop", "random", "simple", "hard", "manual", "autoaugment", "none")  # policy; built there as well


class Data(BaseModel):
    """Which videos, and the clip cut from each before the learned crop."""

    model_config = STRICT

    shards: str | None = option(None, "folder or URI of shards; none: a made-up set, made once and kept", where=True)
    split: str | None = option(None, "which of the set's splits (train, train1, ...); none: all its videos")
    clip_frames: int = option(64, "frames of the clip that the croppers see", ge=1)
    frame_stride: int = option(1, "source frames from one clip frame to the next (not in the paper)", ge=1)
    clip_size: int = option(128, "side of that clip, pixels", ge=8)
    random_cube: bool = option(True, "R1, R2 of Table 2: each view has its own window and box of the video")
    random_box: tuple[float, float] = option(
        (0.65625, 0.875), "side of R's square box, share of the short side, drawn between (not in the paper)"
    )
    shuffle_row_groups: int = option(8, "row groups whose rows are shuffled together", ge=1)
    labels: float = option(
        1.0, "share of each class's videos whose labels method=mean_teacher learns from (Table 6)", gt=0, le=1
    )
    decoder: Literal["planes", "decord", "torchcodec"] = option(
        "planes", "what reads the videos; planes: PyAV, colours are made on the trainer's device (not in the paper)"
    )
    cache: str | None = option(
        None,
        "folder on a local disk of each node that keeps decoded frames while a tenth of the disk is free; "
        "none: every epoch decodes",
        where=True,
    )
    max_failed: float = option(
        0.01, "stop when more than this share of an epoch's samples cannot be decoded", where=True, ge=0, le=1
    )
    decode_timeout: float = option(
        60.0, "seconds after which a video that is being decoded counts as one that cannot be", where=True, gt=0
    )
    task_rows: int | None = option(
        None, "videos a decode task hands on at once, at most; none: by size", where=True, ge=1
    )

    @model_validator(mode="after")
    def _check(self) -> Data:
        low, high = self.random_box
        if not 0 < low <= high <= 1:
            raise ValueError(f"random_box must be 0 < low <= high <= 1, but is {self.random_box}")
        if self.cache and self.decoder != "planes":
            raise ValueError(f"cache needs decoder=planes, but decoder is {self.decoder}")
        return self


class Augment(BaseModel):
    """Before the learned crop, on the device. The paper names jitter and flip; the numbers are not in it."""

    model_config = STRICT

    flip: float = share(0.5, "probability of a horizontal flip")
    jitter: float = share(0.8, "probability of colour jitter")
    brightness: float = option(0.8, "factor drawn from 1 +- this", ge=0)
    contrast: float = option(0.8, "factor drawn from 1 +- this", ge=0)
    saturation: float = option(0.8, "factor drawn from 1 +- this", ge=0)
    hue: float = option(0.2, "shift drawn from +- this, turns of the colour circle", ge=0, le=0.5)
    mean: float = option(0.45, "subtracted from every pixel in [0, 1]")
    std: float = option(0.225, "divides it then", gt=0)


class Cropper(BaseModel):
    """ParamCrop: the learned cubic crop (Eq. 3 to 8)."""

    model_config = STRICT

    frames: int = option(16, "frames of a view", ge=1)
    size: int = option(112, "side of a view, pixels", ge=4)
    spatial_scale: tuple[float, float] = option((0.5, 1.0), "minimum and maximum of s_p, share of the clip's side")
    temporal_scale: tuple[float, float] = option((0.5, 1.0), "minimum and maximum of s_t, share of the clip's length")
    rotation: float = option(0.0, "maximum of theta either way, degrees; Table 2's rotation row: 30", ge=0, le=180)
    axes: Literal["both", "spatial", "temporal"] = option("both", "what is learned (Table 13)")
    reversal: bool = option(True, "reverse the croppers' gradient (Table 3)")
    early_stopping: bool = option(True, "Eq. 7 (Table 4)")
    lower: float = share(0.2, "v_l of Eq. 7")
    upper: float = share(0.8, "v_u of Eq. 7")
    layers: int = option(2, "linear layers of the MLP (Table 7)", ge=1, le=8)
    noise_size: int = option(32, "m of Eq. 5 (from Table 7's counts)", ge=1)
    hidden: int = option(64, "d of Eq. 5 (from Table 7's counts)", ge=1)
    batch_norm: bool = option(False, "batch normalisation in the MLP (not in the paper)")
    noise: Literal["normal", "uniform"] = option("normal", "distribution of n (not in the paper)")
    rounding: Literal["round", "floor"] = option("round", "of Eq. 8: the formula rounds, its text rounds down")
    optimizer: Literal["sgd", "lars"] = option("sgd", "of the croppers; LARS ignores the gradient's size")
    lr: float = option(0.004, "learning rate of the croppers, not scaled by the batch (not in the paper)", ge=0)
    momentum: float = option(0.9, "of the croppers (not in the paper)", ge=0, lt=1)
    weight_decay: float = option(0.0, "of the croppers (not in the paper)", ge=0)
    clip_norm: float | None = option(
        1.0, "clip the norm of both croppers' gradient at this; none: no clipping (not in the paper)", gt=0
    )
    schedule: Literal["cosine", "constant"] = option("cosine", "of the croppers' learning rate (not in the paper)")

    @model_validator(mode="after")
    def _check(self) -> Cropper:
        for name in ("spatial_scale", "temporal_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be 0 < minimum <= maximum <= 1, but is {(low, high)}")
        if self.lower > self.upper:
            raise ValueError(f"lower <= upper must hold, but lower is {self.lower} and upper {self.upper}")
        return self


class Backbone(BaseModel):
    """The video network: a built-in one takes depth to final_relu, a class of your own takes kwargs alone."""

    model_config = STRICT

    name: str = named("r2d3d", "architecture; module:Class: your own, as in my_net:Net", BACKBONES)
    depth: Literal[10, 18, 34, 50] = option(18, "layers of r2d3d (Table 8)")
    width: int = option(64, "channels of its first stage; less makes a small network", ge=1)
    norm: Literal["batch", "group"] = option("batch", "group: does not depend on the batch or on the worker count")
    final_relu: bool = option(True, "of r2d3d: keep the last block's ReLU (not in the paper)")
    kwargs: dict[str, JsonValue] = option({}, "keyword arguments of a class of your own, as in backbone.kwargs.width=8")
    source: str | None = option(
        None, "hash of the file of your own class; filled in, part of the run's id", validate_default=True
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_name(name, BACKBONES)

    @field_validator("source")
    @classmethod
    def _fill_source(cls, source: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name", "")  # missing if it is wrong
        return (source or source_of("backbone.name", name)) if is_custom(name) else None

    @model_validator(mode="after")
    def _check(self) -> Backbone:
        check_kwargs("backbone.name", self.name, self.kwargs, "")
        return self


class Projector(BaseModel):
    """The MLP between features and the loss; thrown away afterwards."""

    model_config = STRICT

    layers: int = option(2, "linear layers (from Table 7's parameter count)", ge=1, le=8)
    hidden: int = option(1024, "width", ge=1)
    size: int = option(128, "embedding size", ge=2)
    batch_norm: bool = option(True, "batch normalisation between its layers (not in the paper)")
    final_batch_norm: bool = option(
        True, "batch normalisation without weights after it: without, embeddings collapse (not in the paper)"
    )


class SimCLR(BaseModel):
    """Settings of method=simclr."""

    model_config = STRICT

    temperature: float = option(0.1, "tau of Eq. 2 (not in the paper)", gt=0)


class MoCo(BaseModel):
    """Settings of method=moco; the paper gives none."""

    model_config = STRICT

    temperature: float = option(0.1, "tau (not in the paper)", gt=0)
    queue: int = option(16384, "keys kept, a multiple of train.global_batch (not in the paper)", ge=2)
    momentum: float = option(0.999, "of the key network (not in the paper)", ge=0, le=1)
    key_crop_grad: bool = option(True, "the key view's cropper learns as well (not in the paper)")


class MeanTeacher(BaseModel):
    """Settings of method=mean_teacher; the paper gives none: those of the method's authors on small images."""

    model_config = STRICT

    labelled: float = option(0.25, "share of each batch that shows its labels (not in the paper)", gt=0, lt=1)
    momentum: float = option(0.999, "of the teacher (not in the paper)", ge=0, le=1)
    consistency: Literal["mse", "kl"] = option("mse", "what tells the two outputs apart (not in the paper)")
    weight: float = option(100.0, "of the consistency; cross-entropy has 1 (not in the paper)", ge=0)
    ramp_up_epochs: float = option(5.0, "until the consistency has its weight (not in the paper)", ge=0)


class Policies(BaseModel):
    """Crop policies with nothing to learn (Table 1); scales, axes and rotation are those of ``cropper``."""

    model_config = STRICT

    simple: float = option(0.05, "centre distance of policy=simple (not in the paper)", ge=0, le=3)
    hard: float = option(0.75, "centre distance of policy=hard (not in the paper)", ge=0, le=3)
    manual: tuple[float, float] = option(
        (0.05, 0.60), "centre distance of policy=manual at start and end, a smooth step between (not in the paper)"
    )
    autoaugment: Literal["imagenet", "cifar10", "svhn"] = option(
        "imagenet", "torchvision's operations of policy=autoaugment, over R1 and R2 (not in the paper)"
    )


class Optim(BaseModel):
    """Optimiser of the network; the croppers have their own under ``cropper``."""

    model_config = STRICT

    name: Literal["lars", "sgd"] = option("lars", "LARS leaves biases and norms unscaled")
    lr: float = option(0.3, "learning rate, before scaling", ge=0)
    lr_scale: Literal["sqrt", "views/256", "none"] = option(
        "sqrt", "times sqrt(views in the global batch / 32), or views / 256; equal at 2048 views (not in the paper)"
    )
    momentum: float = option(0.9, "(not in the paper)", ge=0, lt=1)
    weight_decay: float = option(1e-6, "of tensors with two dimensions or more", ge=0)
    trust: float = option(0.001, "LARS trust coefficient (not in the paper)", gt=0)
    warmup_epochs: float = option(5.0, "linear warm-up, then cosine to 0 by step (not in the paper)", ge=0)
    clip_norm: float | None = option(None, "clip the network's gradient norm at this; none: no clipping", gt=0)
