"""`--quiet` and `--verbose`, which every command takes."""

import contextlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fima.errors import ConfigError

QUIET = "--quiet"
VERBOSE = "--verbose"
EXIT_CODES = "Exit codes: 0 done; 1 had to stop; 2 wrong input; 3 collapsed; 128 + n ended by signal n (130: Ctrl-C)."
HELP = f"""\
Every command takes {QUIET} (only results, warnings and errors) and {VERBOSE} (also versions, messages of libraries,
time, memory, and the traceback of an error). NO_COLOR=1 switches colours off.
{EXIT_CODES}"""

_quiet = False


@dataclass(frozen=True)
class Verbosity:
    """How much a command says."""

    quiet: bool = False
    """Results, warnings and errors only."""
    verbose: bool = False


def take_verbosity(words: Sequence[str]) -> tuple[list[str], Verbosity]:
    """Return the words without the two flags, and what those say. Raises ConfigError where both are given."""
    found = Verbosity(quiet=QUIET in words, verbose=VERBOSE in words)
    if found.quiet and found.verbose:
        raise ConfigError(f"{QUIET} and {VERBOSE} exclude each other; give one of them")
    return [word for word in words if word not in (QUIET, VERBOSE)], found


def is_quiet() -> bool:
    """Whether progress is left out."""
    return _quiet


@contextlib.contextmanager
def speaking(verbosity: Verbosity, *, result_on_stdout: bool) -> Iterator[None]:
    """Let a command say as much as was asked for; a result on stdout is never left out."""
    if verbosity.verbose:
        with _in_detail():
            yield
    elif verbosity.quiet:
        with _quietly(result_on_stdout=result_on_stdout):
            yield
    else:
        yield


@contextlib.contextmanager
def _quietly(*, result_on_stdout: bool) -> Iterator[None]:
    global _quiet
    before, _quiet = _quiet, True
    try:
        with contextlib.ExitStack() as stack:
            if not result_on_stdout:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        _quiet = before


@contextlib.contextmanager
def _in_detail() -> Iterator[None]:
    _say(_versions())
    root, began = logging.getLogger(), time.monotonic()
    handler, level = logging.StreamHandler(), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    except Exception:
        traceback.print_exc()
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        _say(f"took {time.monotonic() - began:.1f} s{_memory()}")


def _versions() -> str:
    # Imported here, since `--help` need not wait for it.
    from fima.commands.system import versions

    return ", ".join([*versions(), f"{os.cpu_count()} CPU cores"])


def _memory() -> str:
    """The most memory that this process held, if the system knows."""
    try:
        import resource
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB of memory"


def _say(text: str) -> None:
    print(f"fima: {text}", file=sys.stderr, flush=True)
