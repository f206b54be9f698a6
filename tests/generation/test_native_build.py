"""The native code is compiled once, also by concurrent processes; without a compiler, models work as before."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import random_ids, tiny_model

from tinystories.generation.native import build
from tinystories.utils.errors import UserError


LOAD = "from tinystories.generation.native import build; print(build.library().tinystories_padding())"
TRY = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from helpers import random_ids, tiny_model
from tinystories.generation.native import use_native_decoding
model = tiny_model()
assert use_native_decoding(model) is model
print(type(model).__mro__[1].__name__, model.generate(random_ids(1, 4), max_new_tokens=5).tolist())
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build, "_library", None)
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that counts its calls: a function that returns their number."""
    calls = tmp_path / "calls"
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    script = tmp_path / "counting-cc"
    script.write_text(f'#!/bin/sh\necho >> {calls}\nexec {real} "$@" -O0\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    return lambda: len(calls.read_text()) if calls.exists() else 0


def files_in(cache: Path) -> dict[str, Path]:
    return {file.name: file for file in cache.rglob("*") if file.is_file()}


def again(monkeypatch) -> ctypes.CDLL:
    monkeypatch.setattr(build, "_library", None)
    return build.library()


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_library_is_compiled_once_and_cached(cache, compiler, monkeypatch):
    first = build.library()
    assert build.library() is first and compiler() == 1
    again(monkeypatch)
    assert compiler() == 1
    files = files_in(cache)
    assert sorted(files) == ["step.sha256", "step.so"]
    assert stat.S_IMODE(files["step.so"].parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["cut short", "overwritten", "empty", "no checksum", "foreign checksum"])
def test_a_damaged_library_is_built_again(damage, cache, compiler, monkeypatch):
    build.library()
    files = files_in(cache)
    content = files["step.so"].read_bytes()
    files["step.so"].unlink()  # the loaded one must not be written into
    files["step.so"].write_bytes(
        {"cut short": content[: len(content) // 2], "overwritten": b"x" * len(content), "empty": b""}.get(
            damage, content
        )
    )
    if damage == "no checksum":
        files["step.sha256"].unlink()
    if damage == "foreign checksum":
        files["step.sha256"].write_bytes(b"\xff\xfe")
    assert again(monkeypatch).tinystories_padding() > 0
    assert compiler() == 2
    again(monkeypatch)
    assert compiler() == 2


def test_another_processor_or_source_has_its_own_library(monkeypatch, tmp_path):
    keys = {build._key()}
    monkeypatch.setattr(build, "_processor", lambda: "another")
    keys.add(build._key())
    changed = tmp_path / "vectors.h"
    changed.write_text("changed")
    monkeypatch.setattr(build, "HEADERS", [changed])
    keys.add(build._key())
    monkeypatch.setenv("CC", "another")
    keys.add(build._key())
    assert len(keys) == 4


def test_two_processes_can_build_at_once(cache):
    processes = [
        subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        printed, complaint = process.communicate(timeout=120)
        assert process.returncode == 0 and int(printed) > 0, complaint
    assert sorted(files_in(cache)) == ["step.sha256", "step.so"]


def test_without_a_writable_cache_it_is_built_for_the_process(tmp_path, monkeypatch, compiler):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build.library().tinystories_padding() > 0
    assert compiler() == 1


def test_a_relative_cache_folder_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert build._cache_folder() == Path.home() / ".cache" / "tinystories"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("", "there is no C compiler (cc, gcc or clang)"),
        ("nowhere-cc", "there is no C compiler 'nowhere-cc' (set by CC)"),
        ("false", "cannot compile the native code: exit status 1"),
    ],
)
def test_the_reason_why_there_is_no_native_code_is_reported(compiler, reason, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    shutil.copy(shutil.which("false"), tmp_path / "bin" / "false")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(UserError) as refused:
        build.library()
    assert reason in str(refused.value)


def test_without_a_compiler_the_model_is_unchanged(tmp_path):
    result = run(TRY, str(Path(__file__).parents[1]), PATH=str(tmp_path), CC="")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "TinyLlamaPreTrainedModel"
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and "there is no C compiler (cc, gcc or clang)" in lines[0], lines
    want = tiny_model().generate(random_ids(1, 4), max_new_tokens=5).tolist()
    assert result.stdout.strip().endswith(str(want))


def test_the_compilers_error_is_reported(tmp_path, monkeypatch):
    broken = tmp_path / "step.c"
    broken.write_text("int tinystories_step(void) { return nothing_there; }")
    monkeypatch.setattr(build, "SOURCES", [broken])
    with pytest.raises(UserError, match="nothing_there"):
        build.library()


def test_a_long_compilation_is_announced(monkeypatch, capsys, compiler):
    monkeypatch.setattr(build, "ANNOUNCE_AFTER", 0.01)
    build.library()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_short_compilation_is_not_announced(monkeypatch, capsys, compiler):
    monkeypatch.setattr(build, "ANNOUNCE_AFTER", 60.0)
    build.library()
    assert capsys.readouterr().err == ""


def test_importing_compiles_nothing():
    result = run("import tinystories.generation.native.build as b; print(b._library)", CC="nowhere-cc")
    assert result.stdout.strip() == "None", result.stderr


@pytest.mark.parametrize("flags", [["-march=x86-64"], ["-march=x86-64-v3"], ["-march=x86-64-v4"], []])
def test_it_compiles_for_other_processors(flags, tmp_path):
    """It compiles without warnings; the code is not run."""
    if flags and os.uname().machine != "x86_64":
        pytest.skip("not an x86 machine")
    command = [*build._compiler(), "-Wall", "-Werror", *build.FLAGS, "-O1", *flags, *map(str, build.SOURCES)]
    result = subprocess.run([*command, "-o", str(tmp_path / "step.so"), "-lm"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
