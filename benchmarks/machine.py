"""What the figures were measured on, in one line."""

import torch
import transformers

from tinystories.speed import describe_hardware


def describe_machine() -> str:
    """GPU, or CPU with the threads that are used, and the versions that matter."""
    threads = "" if torch.cuda.is_available() else f", {torch.get_num_threads()} threads"
    return f"{describe_hardware()}{threads}; torch {torch.__version__}, transformers {transformers.__version__}"
