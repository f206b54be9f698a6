"""Stories in, a small Llama-style model out: corpus, packing, training, decoding.

Nothing is imported here, so that `tinystories --help` answers before torch has loaded.
"""

__version__ = "0.1.0"
