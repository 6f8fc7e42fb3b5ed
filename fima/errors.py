"""Errors for people: each says what was wrong, which file or flag, and what to do."""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

EXIT_USER_ERROR = 2
EXIT_TRAINING_ERROR = 1
EXIT_COLLAPSED = 3
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 128 + 13
"""As of a program that SIGPIPE has ended."""


class UserError(ValueError):
    """Something that the caller can put right; the command line prints it as one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Return text with line breaks and control characters, which names of files may hold, as Python escapes them."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def warn(text: str) -> None:
    """Print a warning for people, one line on stderr."""
    with outliving_its_output():
        print(f"fima: warning: {one_line(text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def outliving_its_output() -> Iterator[None]:
    """A context in which a line that cannot be printed is no reason to stop, as into a file on a full disk.

    Raises BrokenPipeError where nobody reads any more.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass  # it stays in the buffer, and comes with the next line that can be printed


class ConfigError(UserError):
    """A setting that is misspelt, of the wrong type or out of range."""


class DataError(UserError):
    """A data set that is missing, empty or not in the layout that was asked for."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


class VideoError(DataError):
    """One video file that cannot be decoded, and the reason in a few words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Path, str]]:
        return (VideoError, (self.path, self.reason))


class TrainingError(RuntimeError):
    """A run that had to stop, with its last good checkpoint in place; exit code 1."""

    exit_code = EXIT_TRAINING_ERROR


class CollapseError(TrainingError):
    """A run whose representation has collapsed, and that was to stop then; exit code 3."""

    exit_code = EXIT_COLLAPSED


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean "..."?` for the nearest of the choices, or a list of them when none is near."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f"; choose from {', '.join(known)}"


def near_path(path: Path, names: Iterable[str] = ()) -> str:
    """Return `; did you mean "..."?` for what is in a path's place, or of the names, and is like it; else nothing."""
    with contextlib.suppress(OSError, StopIteration):  # a folder that cannot be listed
        place = next(folder for folder in path.parents if folder.is_dir())
        known = [*names, *(there.name for there in place.iterdir())]
        # A folder in a file's place is there: it would be its own nearest.
        near = [] if path.exists() else difflib.get_close_matches(path.relative_to(place).parts[0], known, 1, 0.6)
        return f"; did you mean `{place / near[0]}`?" if near else ""
    return ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of another library says; its type, where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
