"""Exact frames of video files."""
