"""The processes of a run: how many, which of them here, and PyTorch's launcher for several on one machine."""

import argparse
import errno
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM
from urllib.parse import urlsplit

from fima.errors import ConfigError

DEFAULT_URL = "tcp://localhost:10001"
STOPPED = (128 + SIGINT, 128 + SIGTERM)
"""Exit codes of a process that stopped when it was asked to."""
SAVE_SECONDS = "600"
"""How long a process that was asked to stop may take to save its checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The processes of a run."""

    nodes: int = 1
    """Groups of processes, each started by a command of its own."""
    node_rank: int = 0
    local: int = 1
    """Processes of a group."""
    address: str = "localhost"
    """Address of process 0."""
    port: int = 0
    opens_port: bool = True
    """Whether process 0 opens the port; not where another launcher has done so."""
    gpu: int = 0
    """GPU of the only process here."""

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

    @property
    def environment(self) -> dict[str, str]:
        """What the only process of this group finds in its environment, as `torchrun` would set it."""
        return {
            "RANK": str(self.node_rank),
            "WORLD_SIZE": str(self.total),
            "LOCAL_RANK": str(self.gpu),
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def plan_launch(given: argparse.Namespace, *, gpus: int, environment: Mapping[str, str]) -> Launch:
    """Return the processes that flags, or with `env://` the environment, ask for on a machine. Raises ConfigError."""
    url = given.dist_url or DEFAULT_URL
    world_size = None if given.world_size == -1 else given.world_size
    rank = None if given.rank == -1 else given.rank
    if url == "env://":
        world_size = _variable("WORLD_SIZE", environment) if world_size is None else world_size
        rank = _variable("RANK", environment) if rank is None else rank
    world_size, rank = 1 if world_size is None else world_size, rank or 0
    if world_size < 1:
        raise ConfigError(f"--world_size {world_size}: must be at least 1")
    if not 0 <= rank < world_size:
        raise ConfigError(f"--rank {rank}: must be from 0 to {world_size - 1}, less than --world_size {world_size}")
    local = max(gpus, 1) if given.multiprocessing_distributed else 1
    if world_size * local == 1:
        return Launch()
    gpu = rank % max(gpus, 1) if given.gpu is None else given.gpu
    if url == "env://":
        address, port = environment.get("MASTER_ADDR", "localhost"), _variable("MASTER_PORT", environment)
        gpu = int(environment.get("LOCAL_RANK") or gpu)
    else:
        address, port = _address(url)
    return Launch(
        nodes=world_size,
        node_rank=rank,
        local=local,
        address=address,
        port=port,
        gpu=gpu if local == 1 else 0,
        opens_port=url != "env://",
    )


def check_port(launch: Launch) -> None:
    """Raise ConfigError, with the remedy, for a port that another program of this machine listens on."""
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
    """Run a command in every process of this group by PyTorch's launcher, which passes signals on.

    All end when one fails. What the first process prints is shown as it comes. Of the others, the errors of the one
    that failed are shown, and only where the first one has not failed too, since they are mostly the same. Returns 0,
    the exit code of a process that failed, or 128 + n where signal n ended it or the group. Raises ConfigError where
    the groups do not find each other.
    """
    # PyTorch need not be loaded for a mistyped flag.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SAVE_SECONDS)
    # Errors are one line each, which the processes have printed.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=launch.nodes,
            max_nodes=launch.nodes,
            nproc_per_node=launch.local,
            run_id="fima",
            rdzv_backend="static",
            rdzv_endpoint=f"{launch.address}:{launch.port}",
            rdzv_configs={"rank": launch.node_rank},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, launch.local), Std.ALL)),
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except SignalException as stop:
            return 128 + stop.sigval
        except ChildFailedError as error:
            failures = error.failures.values()
            codes = {each.local_rank: 128 - each.exitcode if each.exitcode < 0 else each.exitcode for each in failures}
            failed = {rank: code for rank, code in codes.items() if code not in STOPPED} or codes
            if 0 not in failed:
                for log in Path(folder).rglob(f"{min(failed)}/stderr.log"):
                    sys.stderr.write(log.read_text(errors="replace"))
            return max(failed.values())
        except RuntimeError as error:
            raise ConfigError(
                f"--dist_url tcp://{launch.address}:{launch.port}: rendezvous failed ({str(error).splitlines()[0]}); "
                "start all processes, with the same address and a free port"
            ) from None
        finally:
            logging.disable(logging.NOTSET)
    return 0


def _variable(name: str, environment: Mapping[str, str]) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        what = f"the variable {name} is `{value}`, not a number"
        raise ConfigError(f"--dist_url env://: {what}; set it, or give tcp://HOST:PORT")
    return int(value)


def _address(url: str) -> tuple[str, int]:
    """The host and the port of `tcp://HOST:PORT`."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "tcp" or not parts.hostname or not port:
        raise ConfigError(f"--dist_url {url}: give tcp://HOST:PORT, or env://")
    return parts.hostname, port
