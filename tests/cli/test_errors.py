"""Every kind of error has a sentence, and names that the command line repeats agree with the library."""

import ast
import dataclasses
import errno
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from vocabridge.alignment import METHODS, Terminated, VocabridgeError
from vocabridge.cli import _options as options
from vocabridge.cli import _vocabularies as vocabularies
from vocabridge.cli import train
from vocabridge.cli._errors import Commands, sentence
from vocabridge.cli._output import plain
from vocabridge.options import TrainingMethod


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (VocabridgeError("the corpus is empty"), "the corpus is empty"),
        (OSError(errno.ENOSPC, "No space left on device", "out.bin"), "out.bin: no space left on the device"),
        (PermissionError(errno.EACCES, "Permission denied", "out.bin"), "out.bin: permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "out.bin"), "out.bin: permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out"), "out: Is a directory"),
        (ModuleNotFoundError("no peft", name="peft.tuners"), "pip install 'vocabridge[train]'"),
        (MemoryError(), "not enough memory; close other programs, lower --batch-size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory;"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried"), "not enough memory;"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"), "another --device"),
        (RuntimeError("shapes differ"), "unexpected RuntimeError: shapes differ"),
        (KeyError("x"), "unexpected KeyError: 'x'; this is a defect of vocabridge"),
    ],
)
def test_an_error_is_one_sentence(error, message):
    assert message in sentence(error)
    assert "\n" not in sentence(error)


PanicException = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
"""A class like that of pyo3, which cannot be imported."""


def failing(error):
    app = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.callback()
    def prepare() -> None:
        """Nothing."""

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (VocabridgeError("the corpus is empty"), 1, "error: the corpus is empty\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing is left half-written\n"),
        (Terminated(), 143, "error: terminated; nothing is left half-written\n"),
        (ZeroDivisionError("division by zero"), 1, "error: unexpected ZeroDivisionError: division by zero"),
        (PanicException("out of range"), 1, "error: unexpected PanicException: out of range"),
    ],
)
def test_a_failing_command_ends_with_its_sentence_and_status(capsys, error, status, message):
    with pytest.raises(SystemExit) as end:
        failing(error)(["fail"])
    assert end.value.code == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_the_methods_are_those_of_the_library():
    assert set(options.METHODS) == set(METHODS)


def test_the_packaged_models_are_those_of_the_library():
    from vocabridge.models.packaged import PACKAGED

    assert set(vocabularies.PACKAGED) == set(PACKAGED)


def test_the_defaults_of_training_are_those_of_the_library():
    from vocabridge.training.config import TrainingConfig

    defaults = {name: option.default for name, option in inspect.signature(train.train).parameters.items()}
    assert defaults.pop("other_base") is None
    defaults["other_bases"] = ()
    for field in dataclasses.fields(TrainingConfig):
        if field.default is not dataclasses.MISSING:
            default = defaults[field.name]
            assert getattr(default, "value", default) == field.default


def test_paths_arrays_enums_and_nan_have_a_json_form():
    @dataclasses.dataclass(frozen=True)
    class Result:
        path: Path
        values: np.ndarray
        mean: np.float32
        loss: float
        method: TrainingMethod

    result = Result(Path("a/b"), np.array([1, 2]), np.float32(0.5), math.nan, TrainingMethod.LORA)
    assert plain({"r": (result,)}) == {
        "r": [{"path": "a/b", "values": [1, 2], "mean": 0.5, "loss": None, "method": "lora"}]
    }


def written_messages(path):
    """The first and the last literal text of every message of a `VocabridgeError` in a file, with its line."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "VocabridgeError":
            parts = [part for message in call.args for part in getattr(message, "values", [message])]
            yield call.lineno, *(getattr(part, "value", None) for part in (parts[0], parts[-1]))


def test_a_message_begins_without_a_capital_article_and_ends_without_a_period():
    root = Path(__file__).parents[2]
    files = [path for folder in ("alignment", "vocabridge", "cli", "data") for path in (root / folder).rglob("*.py")]
    messages = [(path, *message) for path in files for message in written_messages(path)]
    assert len(messages) > 200
    for path, line, first, last in messages:
        assert not (isinstance(first, str) and re.match(r"[A-Z][a-z]* ", first)), f"{path}:{line}: {first}"
        assert not (isinstance(last, str) and last.endswith(".")), f"{path}:{line}: {last}"
