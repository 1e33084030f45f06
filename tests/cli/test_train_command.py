"""`vocabridge train` through the real entry point: in one or several processes, and stopped and resumed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from vocabridge.cli import train
from vocabridge.options import Initialization, Regularizer, Scheme

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [{"prompt": f"Question: {n} foxes?\nAnswer:", "response": f" {n}*2={2 * n} foxes."} for n in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def examples():
    return [
        shlex.split(example)
        for example in train.EXAMPLES.replace("\n      ", " ").splitlines()
        if "vocabridge" in example
    ]


@pytest.mark.parametrize(
    "example",
    [pytest.param(words, marks=pytest.mark.quick(0) if words[0] == "torchrun" else ()) for words in examples()],
)
def test_the_examples_run_with_a_small_model_in_place_of_the_packaged_one(
    command_server, model_folders, tmp_path, example
):
    few = (ROOT / "data/gsm_symbolic/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:24]
    (tmp_path / "data/gsm_symbolic").mkdir(parents=True)
    (tmp_path / "data/gsm_symbolic/train.jsonl").write_text("".join(few), encoding="utf-8")
    assert {"--source", "-o"} < set(example)
    example[example.index("--source") + 1] = str(model_folders.source)
    example[example.index("-o") + 1] = str(tmp_path / "values")
    example = ["1" if word == "8" else word for word in example]  # the layers there are
    scripts = sysconfig.get_path("scripts")  # torchrun finds the command there
    done = subprocess.run(
        [command_server.command if example[0] == "vocabridge" else Path(scripts) / example[0], *example[1:]],
        cwd=tmp_path,
        env=command_server.environment(PATH=scripts + os.pathsep + os.environ["PATH"]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("value network in") == 1
    assert (tmp_path / "values" / "value_network.json").is_file()


@pytest.mark.parametrize("choices", [Scheme, Initialization, Regularizer])
def test_the_choices_are_those_of_the_library(run, choices):
    offered = "".join(run("train", "--help", COLUMNS=200).stdout.split())
    assert re.search(rf"[<\[]{re.escape('|'.join(choice.value for choice in choices))}[>\]]", offered)


@pytest.mark.parametrize(
    ("how", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")], ids=["SIGINT", "SIGTERM"]
)
def test_the_same_command_resumes_a_stopped_training(command_server, run, model_folders, data, tmp_path, how, word):
    arguments = ("train", data, "-o", tmp_path / "values", "--source", model_folders.source, "--epochs", 60)
    process = subprocess.Popen(
        [command_server.command, *map(str, arguments)],
        env=command_server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "values" / "training_log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + how, "")
    assert f"error: {word}; step " in err
    assert "start the same run again to resume it" in err
    assert "Traceback" not in err
    assert not (tmp_path / "values" / "value_network.json").exists()

    other = run(*arguments, "--learning-rate", 0.5)
    assert other.returncode == 1
    assert "is of a run with learning rate 0.0003, not 0.5;" in other.stderr

    again = run(*arguments, "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["steps"] == 180
    assert 3 <= result["resumed"] < 180


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--validation nowhere.jsonl", "Path 'nowhere.jsonl' does not exist"),
        ("--regularizer l3", "Invalid value for '--regularizer'"),
        ("--scheme series", "Invalid value for '--scheme'"),
        ("--patience 0", "Invalid value for '--patience'"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(run, data, arguments, message):
    done = run("train", data, "-o", "values", "--source", "x", *arguments.split())
    assert done.returncode == 2
    assert message in done.stderr


def test_patience_without_validation_is_one_sentence(run, model_folders, data):
    done = run("train", data, "-o", "values", "--source", model_folders.source, "--patience", 1)
    assert done.returncode == 2
    assert "patience needs texts to validate on" in " ".join(done.stderr.replace("│", " ").split())
