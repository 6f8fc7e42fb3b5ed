"""Put the encoder of a run into the package: `fima.load("NAME")` finds it, and the next wheel holds it.

The weights are written in half precision, which halves the wheel; they are loaded as float32. The model card next to
them, README.md, has the settings of the run; add to it what the encoder was trained on and what it cannot do.
"""

import argparse
from pathlib import Path

import fima
from fima.checkpoints.pretrained import ENCODERS


def main() -> None:
    """Write the folder, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="what `fima.load` takes, such as the folder of a run")
    parser.add_argument("name", help="what the encoder is called from now on")
    parser.add_argument("--out", type=Path, default=ENCODERS, help="folder of the encoders")
    arguments = parser.parse_args()
    folder = arguments.out / arguments.name
    fima.load(arguments.encoder).half().save_pretrained(folder)
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    print(f"wrote {folder}: {num_bytes / 1e6:.1f} MB; complete its README.md")


if __name__ == "__main__":
    main()
