"""A training step on a GPU, part by part, on ready tensors: each beside its floor and its PyTorch form.

A floor is the larger of two times: the bytes that must be moved (each input read once, each output written once) at the
rate at which this card copies, and the multiplications that must be done at the rate of its large bfloat16 products.
Neither Ray nor a decoder is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from paramcrop.crops import views
from paramcrop.crops.augment import Augmentation
from paramcrop.crops.geometry import CropParams
from paramcrop.crops.picture import clips_of, plain_clips
from paramcrop.crops.views import augmented_view
from paramcrop.data.batch import Batch
from paramcrop.models import layers
from paramcrop.settings.config import Config
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_optimizer
from paramcrop.training.gpu.ahead import receive, send
from paramcrop.training.model_size import macs
from paramcrop.training.optim import set_lr
from paramcrop.training.step import Stepper
from paramcrop.training.two_views import TwoViews, build_model
from tests.benchmarks.timing import Line, Report, take_turns

VIDEOS, FRAMES, SIDE, SIZE = 64, 64, 128, (16, 112, 112)
PIXELS, VIEW = 3 * SIDE * SIDE, 3 * SIZE[0] * SIZE[1] * SIZE[2]  # of a source frame; of a view
ROUNDS, PLAIN = 7, 4  # of measurement; clips that PyTorch makes of planes, and the time of all follows from
Ways = dict[str, Callable[[], object]]
Rates = tuple[float, float]  # bytes and floating-point operations a second


def run(device: str) -> Report:
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    rates, lines = measured_rates(), list[Line]()
    batch = ready_batch()
    lines += [*clip_lines(rates), copy_line(batch), *view_lines(batch.to(torch.device("cuda")), rates)]
    for method in ("simclr", "moco"):
        for backbone in ("s3dg", "r2d3d18"):
            sizes = [f"train.global_batch={VIDEOS}", "train.device=cuda"]
            config = load_config(f"k400_{method}_{backbone}", None, sizes)
            lines += network_lines(config, rates) if method == "simclr" else []
            lines += step_lines(config, batch, rates)
    notes = [
        f"{torch.cuda.get_device_name()}: {rates[0] / 1e12:.2f} TB/s copied, {rates[1] / 1e12:.0f} TFLOP/s of products",
        f"{VIDEOS} videos, so {2 * VIDEOS} views of {SIZE}, bfloat16; medians of {ROUNDS}, launches included",
        "plain: PyTorch's own operations, the network channels last",
    ]
    return Report("a training step's parts on a GPU, ms", "ms", lines, notes)


def measured_rates() -> Rates:
    """What this card does, large and simple."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target, square = torch.empty_like(source), torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    ways: Ways = {"copy": partial(target.copy_, source), "product": lambda: square @ square}
    seconds = take_turns(ways, 5, "cuda")
    return 2 * 2**30 / seconds["copy"], 2 * 8192**3 / seconds["product"]


def ready_batch() -> Batch:
    """As a loader would give it: jittered with probability 0.8, half of it flipped."""
    n = VIDEOS
    factors = torch.rand(n, 2, 4) * 1.6 + 0.2
    factors[..., 3] = torch.rand(n, 2) * 0.4 - 0.2
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand_as(factors)
    order = torch.stack([torch.randperm(4) for _ in range(2 * n)]).view(n, 2, 4)
    none = torch.zeros(n, dtype=torch.int64)
    return Batch(
        video=torch.randint(0, 256, (n, 2, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8),
        cube=torch.tensor([0.0, 1.0]).expand(n, 2, 3, 2).contiguous(),
        flip=torch.rand(n, 2) < 0.5,
        order=order,
        factors=torch.where(torch.rand(n, 2, 1) < 0.8, factors, neutral).contiguous(),
        noise=torch.randn(n, 2, 32),
        label=none,
        epoch=none,
        position=torch.arange(n),
        id=[str(i) for i in range(n)],
        error=[""] * n,
        substitute=[""] * n,
    )


def clip_lines(rates: Rates) -> list[Line]:
    """Clips of planes. A clip of 128 pixels comes from a box of 84 to 112 (Table 2's R) in planes of 120."""
    clips = 2 * VIDEOS
    planes = torch.randint(0, 256, (clips, FRAMES, 180, 120), dtype=torch.uint8, device="cuda")
    boxes = torch.tensor([[0, 0, 84 + n % 29, SIDE] for n in range(clips)], dtype=torch.int32)
    ways: Ways = {
        "kernel": lambda: clips_of(planes, boxes),
        "plain": lambda: plain_clips(planes[:PLAIN], boxes[:PLAIN]),
    }
    seconds = take_turns(ways, 3, "cuda")
    moved = FRAMES * (int((1.5 * boxes[:, 2] ** 2).sum()) + clips * PIXELS)
    return [
        line("clips of planes, kernel", seconds["kernel"], moved / rates[0]),
        line("clips of planes, plain, on the CPU", seconds["plain"] * clips / PLAIN, None),
    ]


def copy_line(batch: Batch) -> Line:
    stream = torch.cuda.Stream()
    seconds = take_turns({"": lambda: receive(send(batch, torch.device("cuda"), stream))}, 3, "cuda")[""]
    return line("a batch pinned and copied (behind the step)", seconds, None)


def view_lines(batch: Batch, rates: Rates) -> list[Line]:
    """Forward reads a view frame's own frame and writes the view; backward reads three and the gradient."""
    config = load_config("k400_simclr_s3dg", None, ["train.device=cuda"])
    policy = build_model(config, torch.device("cuda")).policy
    crops = [
        CropParams._make(None if p is None else p.detach().requires_grad_() for p in params)
        for params in policy(batch.noise, 0.0)
    ]
    weight = torch.randn(VIDEOS, *SIZE, 3, device="cuda").permute(0, 4, 1, 2, 3)

    def both(dtype: torch.dtype) -> None:
        for i, params in enumerate(crops):
            drawn: Augmentation = batch.augmentation(i)
            augmented_view(batch.clip(i), params, SIZE, drawn, "round", 0.45, 0.225, dtype).backward(weight.to(dtype))

    moved = 2 * VIDEOS * (4 * SIZE[0] * PIXELS + 2 * 2 * VIEW)
    ways: Ways = {"kernels": partial(both, torch.bfloat16), "plain": plainly(both, torch.float32)}
    seconds = take_turns(ways, 3, "cuda")
    return [line(f"views, forward and backward, {n}", s, moved / rates[0]) for n, s in seconds.items()]


def network_lines(config: Config, rates: Rates) -> list[Line]:
    model: Any = build_model(config, torch.device("cuda"))
    network = model.method.backbone
    work = 2 * macs(network.cpu(), SIZE) * 2 * VIDEOS / rates[1]
    network.cuda()
    x = torch.randn(2 * VIDEOS, *SIZE, 3, dtype=torch.bfloat16, device="cuda").permute(0, 4, 1, 2, 3)
    ways: Ways = {
        "forward and backward, kernels": partial(train, network, x),
        "forward and backward, plain": plainly(train, network, x),
        "evaluation, kernels": partial(evaluate, network, x),
        "evaluation, plain": plainly(evaluate, network, x),
    }
    seconds = {name: take_turns({name: way}, ROUNDS, "cuda")[name] for name, way in ways.items()}
    kind = config.backbone.name
    return [line(f"{kind} {n}", s, work * (1 if n.startswith("eval") else 3), 2 * VIDEOS) for n, s in seconds.items()]


def train(network: nn.Module, x: Tensor) -> None:
    network.train().zero_grad()
    leaf = x.detach().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        features = network(leaf)
    features.float().square().mean().backward()


def evaluate(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        network.eval()(x)


def step_lines(config: Config, batch: Batch, rates: Rates) -> list[Line]:
    """The whole step, launched anew and replayed, and its optimiser."""
    moved, kind = batch.to(torch.device("cuda")), f"{config.method} {config.backbone.name}"
    lines = list[Line]()
    for name, recorded in (("launched", False), ("replayed", True)):
        model = build_model(config, torch.device("cuda"))
        optimizer = build_optimizer(config, model.policy, model.method)
        set_lr(optimizer, 0, 1000, 100)
        stepper = Stepper(model, optimizer, recorded=recorded)
        for i in range(6):
            stepper.take(moved, 0.0, i)
        torch.cuda.reset_peak_memory_stats()
        # Several steps at once: that none waits for the one before is what is measured.
        seconds = take_turns({name: partial(several, stepper, moved)}, ROUNDS, "cuda")[name] / SEVERAL
        held = torch.cuda.memory_reserved() if recorded else torch.cuda.max_memory_allocated()
        lines.append(line(f"{kind} whole step, {name}", seconds, None, 2 * VIDEOS, held))
        if not recorded:
            lines.append(optimiser_line(kind, model, optimizer, rates))
    return lines


SEVERAL = 4


def several(stepper: Stepper, batch: Batch) -> None:
    for i in range(SEVERAL):
        stepper.take(batch, 0.0, i)


def optimiser_line(kind: str, model: TwoViews, optimizer: torch.optim.Optimizer, rates: Rates) -> Line:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    seconds = take_turns({"": optimizer.step}, ROUNDS, "cuda")[""]
    return line(f"{kind} LARS", seconds, 5 * 4 * trained / rates[0])  # weights, gradients, momentum; two are written


def line(name: str, seconds: float, floor: float | None, count: int | None = None, held: int | None = None) -> Line:
    more: dict[str, Any] = {"floor, ms": None if floor is None else 1000 * floor}
    more |= {"times it": None if floor is None else seconds / floor}
    more |= {"views a second": None if count is None else count / seconds}
    return Line(name, 1000 * seconds, more | {"GiB held": None if held is None else held / 2**30})


def plainly(way: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    """The same without kernels."""

    def run_plainly() -> None:
        with without_kernels():
            way(*arguments)

    return run_plainly


@contextmanager
def without_kernels() -> Iterator[None]:
    with mock.patch.object(views, "fits", return_value=False), mock.patch.object(layers, "on_gpu", return_value=False):
        yield
