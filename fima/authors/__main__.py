"""One of several processes that a command line of the authors' programs has started."""

import sys

from fima.authors.main import run_words

if __name__ == "__main__":
    sys.exit(run_words(sys.argv[1:]))
