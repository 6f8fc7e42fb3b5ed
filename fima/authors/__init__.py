"""The authors' command lines, `train.py` and `eval.py`: translated into those of `fima`, shown, and run."""
