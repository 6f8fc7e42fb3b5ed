"""Evaluation of frozen encoders: linear probe, nearest neighbours, retrieval."""
