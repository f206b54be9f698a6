"""Train a story model: `python train_hf.py RECIPE [--key value ...]`, or under `accelerate launch` or `torchrun`."""

import sys

from tinystories.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
