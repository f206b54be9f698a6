import pytest
from helpers import tiny_model

from tinystories.tokenization import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def run(tiny_run, tmp_path_factory):
    """A function that writes the run folder of a random model: `run(head_dim=24)`."""

    def make(model=None, tokenizer=None, name="run", **changes):
        folder = tmp_path_factory.mktemp("random") / name
        (model or tiny_model(**{"vocab_size": 600, **changes})).save_pretrained(folder)
        (tokenizer or PreTrainedTokenizerFast.from_pretrained(tiny_run)).save_pretrained(folder)
        return folder

    return make
