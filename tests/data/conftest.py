import pytest

from tinystories.data import corpus


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture
def load(tmp_path):
    return lambda source, **options: corpus.load_corpus(str(source), cache_dir=str(tmp_path / "cache"), **options)


@pytest.fixture
def texts(tmp_path):
    def texts(source, split="train", **options):
        return corpus.load_texts(str(source), split, cache_dir=str(tmp_path / "cache"), **options)["text"][:]

    return texts
