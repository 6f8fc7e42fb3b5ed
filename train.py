"""The authors' command line: `python3 train.py --help` lists its flags."""

import sys

from fima.authors.main import main

if __name__ == "__main__":
    sys.exit(main("train"))
