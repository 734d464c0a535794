"""Settings that are valid but do nothing, or not what one expects: one line of warning each."""

from __future__ import annotations

from paramcrop.settings.config import Config


def setting_warnings(config: Config, steps_per_epoch: int) -> list[str]:
    """A line for each such setting.

    Args:
        steps_per_epoch: steps of one pass over the data.
    """
    lines, steps = list[str](), config.total_steps(steps_per_epoch)
    if config.method != "mean_teacher" and config.data.labels != 1.0:
        lines.append(
            f"warning: data.labels={config.data.labels:g} has no effect, because method={config.method} learns from no "
            "labels; only method=mean_teacher does"
        )
    warmup = round(config.optim.warmup_epochs * steps_per_epoch)
    if warmup > steps:
        lines.append(
            f"warning: optim.warmup_epochs={config.optim.warmup_epochs:g} is longer than the run, {warmup} of {steps} "
            "steps, so the learning rate only rises; lower it"
        )
    return lines
