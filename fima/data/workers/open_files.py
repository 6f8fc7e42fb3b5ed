"""Files that processes may have open at once: batches go from process to process as such."""

from fima.errors import ConfigError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

OWN_FILES = 64
FILES_PER_WORKER = 12
COMFORTABLE_FILES_PER_WORKER = 32


def require_open_files(workers: int, *, flag: str) -> None:
    """Raise the limit of open files where it is low for so many processes that decode; `flag` gave their number.

    Raises:
        ConfigError: the system allows too few, with which the processes would fail or wait for ever.
    """
    if resource is not None and workers:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OWN_FILES + COMFORTABLE_FILES_PER_WORKER * workers
        if 0 <= soft < wanted:
            soft = wanted if hard < 0 else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if 0 <= soft < OWN_FILES + FILES_PER_WORKER * workers:
            most = max(0, (soft - OWN_FILES) // FILES_PER_WORKER)
            raise ConfigError(
                f"--{flag} {workers}: too many for {soft} open files, the limit here; "
                f"choose {most}, or a higher limit (ulimit -n)"
            )
