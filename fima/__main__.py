"""`python -m fima` is the same as `fima`."""

import sys

from fima.cli import main

if __name__ == "__main__":
    sys.exit(main())
