"""Pictures: activation maps, the method's view of a video, contact sheets, the report of a run."""

from fima.evaluate.activation import activation_map

__all__ = ["activation_map"]
