"""Runs a function in several processes that form a gloo group."""

import socket
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.started import CONTEXT, Started, start_fima

TIMEOUT_SECONDS = 600
"""Longest wait for a process; a busy machine needs minutes to start one."""


def run_processes(function: Callable[..., Any], num_processes: int, folder: Path, *args: object) -> list[Any]:
    """Call `function(rank, *args)` in every process and return the results in rank order.

    Args:
        function: a function at the top level of a module; its result must be something `torch.load` reads back with
            `weights_only=True`.
        num_processes: processes to start.
        folder: an empty folder for the rendezvous and the results.
        args: further arguments, picklable.

    Raises:
        RuntimeError: a process failed; the message has its traceback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        CONTEXT.Process(target=_process, args=(rank, function, num_processes, folder, args))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
    failures = [path.read_text() for path in sorted(folder.glob("*.error"))]
    if failures or any(process.exitcode != 0 for process in processes):
        raise RuntimeError("\n".join(failures) or f"exit codes {[process.exitcode for process in processes]}")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num_processes)]


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port


def start_as_one_run(*commands: Sequence[object]) -> list[Started]:
    """Start a `fima` command in a process for each rank, as `torchrun` does."""
    shared = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    return [
        start_fima(*words, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, words in enumerate(commands)
    ]


def communicated(processes: Sequence[Started], timeout: float = TIMEOUT_SECONDS) -> list[tuple[str, str]]:
    """Return what processes that end by themselves print, and what they say of errors; none is left behind."""
    try:
        return [process.communicate(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _process(
    rank: int, function: Callable[..., Any], num_processes: int, folder: Path, args: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{(folder / 'rendezvous').resolve()}"
    try:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_processes)
        torch.save(function(rank, *args), folder / f"{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise
