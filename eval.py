"""The authors' command line: `python3 eval.py --help` lists its flags."""

import sys

from fima.official.main import main

if __name__ == "__main__":
    sys.exit(main("eval"))
