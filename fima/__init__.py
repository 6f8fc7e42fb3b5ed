"""FIMA: self-supervised pre-training of video encoders that learn motion, not background."""

__version__ = "0.1.0"
