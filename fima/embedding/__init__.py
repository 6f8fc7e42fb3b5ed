"""Vectors of videos, clips and seconds: computed, written to a file, searched."""
