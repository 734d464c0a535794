"""The errors a user can cause. Their text is one line: the invariant, then the values, then the mend."""

from __future__ import annotations


class ParamCropError(Exception):
    """Anything that a user can mend; commands print its text and no traceback."""

    exit_code = 1


class ConfigError(ParamCropError, ValueError):
    """A setting is unknown, of a wrong type, or cannot go together with another."""

    exit_code = 2


class DataError(ParamCropError, ValueError):
    """A dataset folder, manifest or shard is missing or does not hold what it says."""

    exit_code = 2


class VideoError(DataError):
    """One video cannot be opened or decoded."""


class ResourceError(ParamCropError, RuntimeError):
    """The machine or cluster is too small for what was asked."""

    exit_code = 3


class NonFiniteLossError(ParamCropError, FloatingPointError):
    """The loss is no longer a number; raised before the weights are touched."""


class DecodeFailuresError(DataError):
    """More samples than allowed could not be decoded; raised on every rank at the same step."""


class StorageError(ParamCropError, OSError):
    """A run's folder cannot be written to; raised on every rank at the same step."""


class CheckpointError(ParamCropError, ValueError):
    """A checkpoint does not fit the network, or the classes, that it is loaded for."""

    exit_code = 2


class LeaseError(ParamCropError, RuntimeError):
    """Another process works on the same run."""
