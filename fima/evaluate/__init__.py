"""Frozen encoders measured: probes, nearest neighbours, retrieval, and where they respond."""
