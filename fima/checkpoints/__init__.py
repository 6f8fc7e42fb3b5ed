"""Weights on disk: the folder of a run, our format, the authors' names, files of other programs, classifiers."""
