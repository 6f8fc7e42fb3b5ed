"""The processes of a run: how many, which of them here, and how they are started and ended."""

import argparse
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

from fima.errors import ConfigError

DEFAULT_URL = "tcp://localhost:10001"
POLL_SECONDS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = tuple(128 + number for number in SIGNALS)
"""Exit codes of a run that stopped when it was asked to."""
FOLLOW_SECONDS = 15
"""How long the others may take to end by themselves once one process has failed."""
KILL_SECONDS = 30
"""How long a process may take to honour the request to end."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The processes of a run."""

    nodes: int = 1
    """Groups of processes, each started by a command of its own."""
    node_rank: int = 0
    """Number of this group."""
    local: int = 1
    """Processes of a group."""
    address: str = "localhost"
    """Where process 0 is met."""
    port: int = 0
    """The port there."""
    opens_port: bool = True
    """Whether process 0 opens the port; not where another launcher has done so."""
    gpu: int = 0
    """GPU of the first process here."""

    @property
    def total(self) -> int:
        """Processes in all."""
        return self.nodes * self.local

    @property
    def prefix(self) -> list[str]:
        """What stands before the words of the `fima` command that does the same."""
        if self.total == 1:
            return ["fima"]
        words = ["torchrun", "--nnodes", self.nodes, "--nproc-per-node", self.local, "--node-rank", self.node_rank]
        return [*map(str, [*words, "--master-addr", self.address, "--master-port", self.port]), "-m", "fima"]

    def environment(self, index: int) -> dict[str, str]:
        """Return what process `index` of this group finds in its environment, as `torchrun` would set it."""
        return {
            "RANK": str(self.node_rank * self.local + index),
            "WORLD_SIZE": str(self.total),
            "LOCAL_RANK": str(self.gpu + index),
            "LOCAL_WORLD_SIZE": str(self.local),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def plan_launch(given: argparse.Namespace, *, gpus: int, environment: Mapping[str, str]) -> Launch:
    """Return the processes that a command line asks for.

    Args:
        given: the parsed flags.
        gpus: GPUs of this machine.
        environment: where `--dist_url env://` finds what it needs.

    Raises:
        ConfigError: a flag that does not fit, or a missing variable.
    """
    url = given.dist_url or DEFAULT_URL
    world_size, rank = given.world_size, given.rank
    if url == "env://":
        world_size = _variable("WORLD_SIZE", environment) if world_size in (None, -1) else world_size
        rank = _variable("RANK", environment) if rank in (None, -1) else rank
    world_size = 1 if world_size in (None, -1) else world_size
    rank = 0 if rank in (None, -1) else rank
    if world_size < 1:
        raise ConfigError(f"--world_size {world_size}: must be at least 1")
    if not 0 <= rank < world_size:
        raise ConfigError(f"--rank {rank}: must be from 0 to {world_size - 1}, less than --world_size {world_size}")
    local = max(gpus, 1) if given.multiprocessing_distributed else 1
    if world_size * local == 1:
        return Launch()
    if url == "env://":
        address = environment.get("MASTER_ADDR", "localhost")
        port = _variable("MASTER_PORT", environment)
    else:
        address, port = _meeting_point(url)
    first_gpu = 0
    if not given.multiprocessing_distributed:
        from_torchrun = environment.get("LOCAL_RANK") if url == "env://" else None
        first_gpu = int(from_torchrun or (rank % max(gpus, 1) if given.gpu is None else given.gpu))
    return Launch(
        nodes=world_size,
        node_rank=rank,
        local=local,
        address=address,
        port=port,
        gpu=first_gpu,
        opens_port=url != "env://",
    )


def check_port(launch: Launch) -> None:
    """Refuse a port that another program of this machine listens on.

    Raises:
        ConfigError: with the remedy.
    """
    if launch.total == 1 or launch.node_rank != 0 or not launch.opens_port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", launch.port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise ConfigError(
                    f"--dist_url tcp://{launch.address}:{launch.port}: the port cannot be used "
                    f"({os.strerror(error.errno)}); give another one, the same to all processes"
                ) from None
            raise


def run_processes(command: Sequence[str], launch: Launch) -> int:
    """Run a command in every process of this group, pass signals on to them, and end all when one fails.

    What the first process prints is shown as it comes. Of the others only the errors are, and only where the first one
    has not failed too, since they are mostly the same.

    Returns:
        The worst exit code of the processes that ended by themselves; 128 + n for one that signal n ended.
    """
    with Group(command, launch) as group:
        while None in group.codes() and not group.failed():
            time.sleep(POLL_SECONDS)
        group.wait(FOLLOW_SECONDS)
        codes = group.codes()
        group.end()
        if codes[0] in (None, 0) and group.failed():
            group.show_errors(next(index for index, code in enumerate(codes) if code))
    return max(128 - code if code < 0 else code for code in codes if code is not None)


class Group:
    """Context manager: the processes of this machine, each in a group of its own, so that signals reach them once.

    Args:
        command: what each one runs.
        launch: how many there are.
    """

    def __init__(self, command: Sequence[str], launch: Launch) -> None:
        self._errors: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(launch.local)]  # noqa: SIM115
        self._previous = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            for index in range(launch.local):
                self._children.append(self._start(command, launch, index))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *unused: object) -> None:
        self.end()
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        for file in self._errors:
            file.close()

    def codes(self) -> list[int | None]:
        """Exit codes; None for a process that runs."""
        return [child.poll() for child in self._children]

    def failed(self) -> bool:
        """Whether one has ended, neither finished nor because it was asked to."""
        return any(code not in (None, 0, *STOPPED) for code in self.codes())

    def wait(self, seconds: float) -> None:
        """Wait for all to end by themselves, but not longer."""
        limit = time.monotonic() + seconds
        while None in self.codes() and time.monotonic() < limit:
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """End those that run."""
        for act in (subprocess.Popen.terminate, subprocess.Popen.kill):
            for child in self._children:
                if child.poll() is None:
                    act(child)
            self.wait(KILL_SECONDS)

    def show_errors(self, index: int) -> None:
        """Print what a process has written to its standard error."""
        self._errors[index].seek(0)
        sys.stderr.write(self._errors[index].read().decode(errors="replace"))

    def _start(self, command: Sequence[str], launch: Launch, index: int) -> subprocess.Popen[bytes]:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **launch.environment(index)}
        first = index == 0
        return subprocess.Popen(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if first else subprocess.DEVNULL,
            stderr=None if first else self._errors[index],
            process_group=0,
        )

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(number)


def _variable(name: str, environment: Mapping[str, str]) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        raise ConfigError(
            f"--dist_url env://: the variable {name} is `{value}`, not a number; set it, or give tcp://HOST:PORT"
        )
    return int(value)


def _meeting_point(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or not port:
        raise ConfigError(f"--dist_url {url}: give tcp://HOST:PORT, or env://")
    return parts.hostname, port
