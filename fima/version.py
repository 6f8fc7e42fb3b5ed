"""The version and the name to install, in a module that everything may import."""

__version__ = "0.1.0"

DISTRIBUTION = "fima-video"
"""What to install. The import and the command are `fima`, a name that the package index gave to somebody else."""


def pip_install(extra: str) -> str:
    """Return the command that installs an extra, such as `pip install 'fima-video[hub]'`; for messages."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
