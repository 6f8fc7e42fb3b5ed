"""Synthetic videos: moving textures, their scenes, and the data of `--smoke`."""
