"""Errors for people: each says what was wrong, which file or flag, and what to do."""

from pathlib import Path


class UserError(ValueError):
    """Something that the caller can put right; the command line prints it as one line and exits with code 2."""


class ConfigError(UserError):
    """A setting that is misspelt, of the wrong type or out of range."""


class DataError(UserError):
    """A data set that is missing, empty or not in the layout that was asked for."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


class VideoError(DataError):
    """One video that cannot be decoded.

    Args:
        path: the video file.
        reason: why, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return (VideoError, (self.path, self.reason))


class TrainingError(RuntimeError):
    """A run that had to stop, with its last good checkpoint in place; exit code 1."""
