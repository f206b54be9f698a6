"""Train a story model: `python train_hf.py RECIPE [--key value ...]`, also under `accelerate launch` and `torchrun`."""

import sys

from tinystories.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
