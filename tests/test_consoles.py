"""What a console or a system other than Linux with UTF-8 does: its encoding, its file handles, its arguments."""

import os
import subprocess
import sys

import pytest

from tinystories import checkpoints
from tinystories.cli import main


def generate(run, prompt: bytes | str, encoding: str | None = None, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    code = "import sys; from tinystories.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "generate", str(run), prompt, "--max-new-tokens", "3", *options]
    return subprocess.run(command, env=environment, capture_output=True)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_characters_that_the_console_lacks_are_escaped(tiny_run, encoding):
    result = generate(tiny_run, "The \N{CAT} said", encoding)
    assert result.returncode == 0, result.stderr
    assert b"The \\U0001f408 said" in result.stdout


def test_an_argument_that_is_not_utf8_is_refused_in_one_line(tiny_run):
    result = generate(tiny_run, b"The caf\xe9", "utf-8")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1 and b"not valid UTF-8" in result.stderr


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_out_of_range_is_refused_in_one_line(tiny_run, verb, seed, capsys):
    prompt = ["One day"] if verb == "generate" else []
    assert main([verb, str(tiny_run), *prompt, "--seed", str(seed)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--seed" in error and str(seed) in error


def test_a_checkpoint_is_flushed_through_handles_that_are_open_for_writing(tmp_path, monkeypatch):
    """As on Windows, where flushing a handle that is open for reading fails."""
    import fcntl

    flushed = []

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    (tmp_path / checkpoints.STATE).write_text('{"global_step": 1}')
    checkpoints.seal(tmp_path)
    assert len(flushed) == 3
    assert (tmp_path / checkpoints.MANIFEST).is_file() and checkpoints.fault(tmp_path) is None
