"""Tests that a run which is interrupted, fails or uses several processes gives the numbers of an uninterrupted one."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from vocabridge.alignment import VocabridgeError
from vocabridge.models.value_network_files import CONFIG, WEIGHTS
from vocabridge.training.callbacks import LOG
from vocabridge.training.run_folder import CHECKPOINTS
from vocabridge.training.train import train_value_network

SCRIPT = """
import sys
from pathlib import Path
from vocabridge.training.train import train_value_network
from vocabridge.training.config import TrainingConfig
from vocabridge.training.trainer import ValueTrainer
config = TrainingConfig(sys.argv[1], epochs=2, batch_size=4, learning_rate=1e-2, method="lora", dtype="float32",
                patience=2, other_bases=tuple(sys.argv[4:]))
train_value_network(config, Path(sys.argv[2]), Path(sys.argv[3]), validation=Path(sys.argv[2]))
"""


def curves(folder):
    return json.loads((folder / CONFIG).read_text())["training"]["curves"]


def interrupt_at(step):
    def progress(done, _total, _what):
        if done == step:
            signal.raise_signal(signal.SIGINT)

    return progress


@pytest.mark.quick(2)
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("step", [2, 3, 7])
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(config, data, tmp_path, method, step):
    """The run stops in the first epoch, at the end of an epoch, or in a later epoch."""
    config, handler = dataclasses.replace(config, method=method), signal.getsignal(signal.SIGINT)
    whole = train_value_network(config, data, tmp_path / "whole", validation=data)
    message = f"step {step + 1} of 12 is saved in .* start the same run again"
    with pytest.raises(KeyboardInterrupt, match=message):
        train_value_network(config, data, tmp_path / "parts", validation=data, progress=interrupt_at(step))
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "parts" / WEIGHTS).exists()

    parts = train_value_network(config, data, tmp_path / "parts", validation=data)
    assert parts.resumed == step + 1
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")
    assert (parts.losses, parts.norms) == (whole.losses, whole.norms)
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert (tmp_path / "parts" / LOG).read_text() == (tmp_path / "whole" / LOG).read_text()


def test_a_killed_run_resumes_from_its_last_checkpoint(config, data, tmp_path):
    """Later lines of the log are removed, and an unfinished checkpoint is ignored."""
    train_value_network(config, data, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(done, *_):
        if done == 6:
            raise KilledError

    with pytest.raises(KilledError):
        train_value_network(config, data, tmp_path / "parts", progress=kill)
    (tmp_path / "parts" / CHECKPOINTS / "unfinished" / "checkpoint-6").mkdir(parents=True)
    assert train_value_network(config, data, tmp_path / "parts").resumed == 4
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert (tmp_path / "parts" / LOG).read_text() == (tmp_path / "whole" / LOG).read_text()


def test_the_last_two_checkpoints_are_kept(config, data, tmp_path):
    train_value_network(config, data, tmp_path / "values")
    kept = {path.name for path in (tmp_path / "values" / CHECKPOINTS).iterdir()}
    assert kept == {"checkpoint-10", "checkpoint-12"}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "write_function",
    ["torch.save", "vocabridge.training.trainer.save_file", "vocabridge.training.train.save_value_network"],
)
def test_a_full_disk_loses_nothing_that_was_saved(config, data, tmp_path, monkeypatch, write_function):
    train_value_network(config, data, tmp_path / "whole")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fill(done, *_):
        def write(*_args, **_named):
            raise full

        if done == 7:
            monkeypatch.setattr(write_function, write)

    with pytest.raises((VocabridgeError, OSError), match="No space left on device"):
        train_value_network(config, data, tmp_path / "values", progress=fill)
    assert not list((tmp_path / "values").rglob("unfinished"))
    monkeypatch.undo()
    result = train_value_network(config, data, tmp_path / "values")
    assert result.resumed in (6, 12)
    assert (tmp_path / "values" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "with learning rate 0.01, not 0.5"),
        ({"rank": 3}, "with rank 8, not 3"),
        ({"seed": 9}, "with seed 0, not 9"),
    ],
)
def test_checkpoints_of_another_config_are_an_error(config, data, tmp_path, change, message):
    with pytest.raises(KeyboardInterrupt):
        train_value_network(config, data, tmp_path / "values", progress=interrupt_at(2))
    with pytest.raises(VocabridgeError, match=message):
        train_value_network(dataclasses.replace(config, **change), data, tmp_path / "values")


def test_checkpoints_of_other_data_or_another_source_are_an_error(config, data, own, tmp_path):
    config = dataclasses.replace(config, source=str(own / "source"))
    with pytest.raises(KeyboardInterrupt):
        train_value_network(config, data, tmp_path / "values", progress=interrupt_at(2))
    with pytest.raises(VocabridgeError, match="with validation None, not"):
        train_value_network(config, data, tmp_path / "values", validation=0.5)
    kept = data.read_text()
    data.write_text(kept + kept.splitlines()[0] + "\n")
    with pytest.raises(VocabridgeError, match="of a run with data "):
        train_value_network(config, data, tmp_path / "values")
    data.write_text(kept)
    shutil.copy(own / "tuned" / "model.safetensors", own / "source" / "model.safetensors")
    with pytest.raises(VocabridgeError, match="of a run with source "):
        train_value_network(config, data, tmp_path / "values")


def launched(processes, *arguments):
    script = arguments[2].parent / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(script), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.quick(0)
@pytest.mark.parametrize("others", [(), ("tuned", "target")])
def test_two_processes_give_the_numbers_of_one(model_folders, config, data, tmp_path, others):
    """With five texts, a process sometimes gets only a text without learned tokens."""
    others = [getattr(model_folders, name) for name in others]
    launched(1, config.source, data, tmp_path / "one", *others)
    launched(2, config.source, data, tmp_path / "two", *others)
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert len(one) == len(two) == 4 + 3
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)
    one, two = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "two" / WEIGHTS)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0.02, atol=2e-3)
