"""Several `fima` commands at once, in processes that share one import of PyTorch."""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import cast

from fima.console import Console

PRELOADED = (
    "fima.commands.pretrain",
    "fima.commands.evaluate",
    "fima.commands.cam",
    "fima.commands.report",
    "fima.train.pretrain",
    "fima.evaluate.evaluate",
    "fima.visual.maps",
    "fima.visual.tensorboard",
    "fima.visual.report.page",
    "torch._dynamo",
)
"""What the commands need, PyTorch's optimisers (which load its compiler) among it."""
SIGNAL_SECONDS = 0.5
"""Longest time after which a signal is noticed."""


def load_ahead() -> None:
    """Start the process from which `run_at_once` forks its own. It loads PyTorch while this one goes on."""
    forkserver.set_forkserver_preload(list(PRELOADED))
    # Ctrl-C reaches every process in the terminal. This one ends by itself, with the one that started it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def be_fima(words: Sequence[str]) -> None:
    """Be `python -m fima WORDS` in this process."""
    sys.argv = ["fima", *words]
    runpy.run_module("fima", run_name="__main__", alter_sys=True)


def run_at_once(commands: Mapping[str, Sequence[object]], work: Callable[[Sequence[str]], None] = be_fima) -> int:
    """Run commands side by side, their names before what they say; return the code of the first that fails, or 0."""
    context = multiprocessing.get_context("forkserver")
    failures: list[int] = []
    children: list[ForkServerProcess] = []

    def follow(name: str, child: ForkServerProcess, said: Connection) -> None:
        with said, open(said.fileno(), errors="replace", closefd=False) as lines:
            for line in lines:
                Console().print(f"{name} | {line.rstrip()}", soft_wrap=True)
        child.join()
        if code := cast(int, child.exitcode):
            failures.append(code if code > 0 else 128 - code)
            _end(children)

    followed: list[Future[None]] = []
    with ThreadPoolExecutor(max_workers=len(commands)) as followers:
        try:
            for name, words in commands.items():
                said, output = context.Pipe(duplex=False)
                child = context.Process(target=_speak_into, args=(output, work, [*map(str, words)]))
                child.start()
                output.close()
                children.append(child)
                followed.append(followers.submit(follow, name, child, said))
            # In turns: a signal that comes just before a wait begins does not end it.
            while wait(followed, timeout=SIGNAL_SECONDS).not_done:
                pass
        finally:
            _end(children)  # After a signal they save and end; otherwise they have ended.
    for done in followed:
        done.result()
    return failures[0] if failures else 0


def _end(children: Sequence[ForkServerProcess]) -> None:
    for child in children:
        child.terminate()


def _speak_into(output: Connection, work: Callable[[Sequence[str]], None], words: Sequence[str]) -> None:
    """Do the work in a new process whose output, that of native code included, goes to a pipe."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(output.fileno(), descriptor)
        # A new one: that of before may believe that it can seek.
        setattr(sys, name, open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False))  # noqa: SIM115
    output.close()
    work(words)
