"""Errors that a user can cause. The text is one line: what must hold, the values found, and what to do."""

from __future__ import annotations


class ParamCropError(Exception):
    """Base of all errors that a user can fix; commands print the text without a traceback."""

    exit_code = 1


class ConfigError(ParamCropError, ValueError):
    """A setting is unknown, has the wrong type, or conflicts with another setting."""

    exit_code = 2


class DataError(ParamCropError, ValueError):
    """A dataset folder, manifest or shard is missing or its content is wrong."""

    exit_code = 2


class ShardError(DataError):
    """A shard is missing or cannot be read."""


class VideoError(DataError):
    """A video cannot be opened or decoded."""


class ResourceError(ParamCropError, RuntimeError):
    """The machine or cluster is too small for the job."""

    exit_code = 3


class NonFiniteLossError(ParamCropError, FloatingPointError):
    """The loss is not finite; raised before the weights are updated."""


class DecodeFailuresError(DataError):
    """Too many samples could not be decoded; raised on every rank at the same step."""


class StorageError(ParamCropError, OSError):
    """The folder of a run is not writable; raised on every rank at the same step."""


class CheckpointError(ParamCropError, ValueError):
    """A checkpoint does not fit the network or the classes that it is loaded into."""

    exit_code = 2


class Abandoned(KeyboardInterrupt):
    """Ctrl-C while work goes on in a thread that does not end: the process exits without waiting for it."""


class LeaseError(ParamCropError, RuntimeError):
    """Another process is working on the same run."""
