"""`vocabridge eval` through the real entry point: templates, resumed runs, several processes, wrong arguments."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest


@pytest.fixture
def models(model_folders, model_pair):
    pair = ("--value", model_folders.tuned, "--untuned", model_folders.source)
    return ("--base", model_folders.target, *pair, "--alignment", model_pair, "--max-new-tokens", 6)


@pytest.fixture
def raw(tmp_path) -> Path:
    """Write items in the format in which a benchmark publishes them."""
    path = tmp_path / "raw.jsonl"
    items = [{"question": f"{n} foxes?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in (3, 12, 24, 345)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


TEMPLATE = ("--prompt", r"Question: {question}\nAnswer:", "--response", " {answer}", "--extract", "#### (.*)")


def test_a_raw_file_is_evaluated_by_templates_and_a_run_continues(run, models, raw, tmp_path):
    command = ("eval", *models, "--data", raw, *TEMPLATE, "--contenders", "bridge,base", "--records", "run", "--json")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["name"] for one in report["measured"]] == ["base", "bridge"]
    assert (report["items"], report["answered"]) == (4, 4)
    assert report["samples"][0]["prompt"] == "Question: 3 foxes?\nAnswer:"
    assert report["config"]["prompt"] == "Question: {question}\nAnswer:"
    written = (tmp_path / "run" / "records-0.jsonl").read_bytes()
    again = run(*command)
    assert again.stdout == done.stdout
    assert (tmp_path / "run" / "records-0.jsonl").read_bytes() == written
    other = run(*command, "--limit", 2)
    assert other.returncode == 1
    assert "error: run holds an evaluation with another limit (None, now 2)" in other.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_stopped_evaluation_keeps_its_records_and_the_same_command_continues(
    run, command_server, models, raw, tmp_path, how
):
    raw.write_text(raw.read_text() * 10)
    command = ["eval", *map(str, (*models, "--data", raw, *TEMPLATE, "--contenders", "base", "--records", "run"))]
    process = subprocess.Popen(
        [command_server.command, *command],
        cwd=tmp_path,
        env=command_server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    records = tmp_path / "run" / "records-0.jsonl"
    while process.poll() is None and not (records.exists() and records.stat().st_size):
        time.sleep(0.005)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + how, "")
    word = "interrupted" if how is signal.SIGINT else "terminated"
    assert err.splitlines()[-1] == f"error: {word}; the same command continues from here"
    kept = records.read_bytes()
    again = run(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert records.read_bytes().startswith(kept)
    assert json.loads(again.stdout)["items"] == 40


def test_several_processes_share_the_items_and_report_the_same(run, models, raw, tmp_path):
    arguments = [*models, "--data", raw, *TEMPLATE, "--contenders", "base,donor", "--json"]
    alone = json.loads(run("eval", *arguments).stdout)
    scripts = Path(sysconfig.get_path("scripts"))
    done = subprocess.run(
        [
            *(scripts / "torchrun", "--nproc-per-node", "2", "--no-python"),
            *(scripts / "vocabridge", "eval", *map(str, arguments), "--records", "run"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    for one, other in zip(shared["measured"], alone["measured"], strict=True):
        assert (one["bits_per_byte"], one["accuracy"]) == (other["bits_per_byte"], other["accuracy"])
    for rank in (0, 1):
        rows = [json.loads(line) for line in (tmp_path / "run" / f"records-{rank}.jsonl").read_text().splitlines()]
        assert {row["item"] for row in rows if row["part"] == "reading"} == {rank, rank + 2}


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--contenders", "base,best"), 2, "There is no contender 'best'; choose among base, donor, bridge"),
        (("--contenders", "mixture"), 1, "the contender mixture needs --validation"),
        (("--extract", "("), 1, "'(' is not a regular expression"),
        (("--prompt", "{problem}"), 1, 'line 1, has no field "problem"'),
        (("--data", "nowhere.jsonl"), 2, "'nowhere.jsonl' does not exist"),
        (("--records", "raw.jsonl"), 2, "'raw.jsonl' is a file"),
        (
            ("--bridge", "."),
            2,
            "--bridge: It has its own base, value, untuned, alignment; leave these out.",
        ),
        (("--bridge", "nowhere"), 2, "'nowhere' does not exist"),
        (("--alpha", "nan"), 2, "nan is out of range; give a number from -1000 to 1000."),
        (("--alpha", "0.5", "--alpha", "1"), 1, "the best of several alphas is chosen on validation items"),
        (("--tolerance", "0.001"), 2, "here: only the contender byte-level has a tolerance; add --byte-level"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(run, models, raw, options, status, message):
    done = run("eval", *models, "--data", raw, *TEMPLATE, *options, COLUMNS=200)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_saved_bridge_replaces_base_and_value_source(run, models, raw):
    base, value = models[:6], models[6:8]
    made = run("bridge", "-o", "saved", *base, *value, "--strength", "0.5")
    assert made.returncode == 0, made.stderr
    command = ("eval", "--bridge", "saved", "--data", raw, *TEMPLATE, "--limit", 1, "--answers", 0)
    done = run(*command, "--byte-level", "--tolerance", "0.01", "--html", "page.html", COLUMNS=250)
    assert done.returncode == 0, done.stderr
    assert all(
        re.search(rf"^ +{name} +\d", done.stdout, re.MULTILINE) for name in ("base", "bridge", "byte-level bridge")
    )
    assert "saved on " in done.stdout
    assert "informed product, 0.45, 0.75, 0.10; alpha 0.5; tolerance 0.01" in done.stdout
    nothing = run("eval", "--data", raw, COLUMNS=200)
    assert (nothing.returncode, "--bridge" in nothing.stderr) == (2, True)


def test_the_best_of_several_strengths_is_used_and_the_loss_at_all_is_shown(run, models, raw, tmp_path):
    lines = raw.read_text().splitlines(keepends=True)
    (tmp_path / "validation.jsonl").write_text("".join(lines[2:]))
    raw.write_text("".join(lines[:2]))
    arguments = (*models, "--data", raw, "--validation", "validation.jsonl", *TEMPLATE, "--answers", 0)
    done = run("eval", *arguments, "--contenders", "bridge,proxy-tuning", "--alpha", 0.4, "--alpha", 0.6, COLUMNS=200)
    assert done.returncode == 0, done.stderr
    assert "Bits a token on the validation items, by alpha" in done.stdout
    assert re.search(r"lookahead", done.stdout)
    assert re.search(r"alpha +0 +0.25 +0.4 +0.5 +0.6", done.stdout)


def test_the_dtype_of_all_models_can_be_set(run, models, raw):
    command = ("eval", *models, "--data", raw, *TEMPLATE, "--limit", 1, "--answers", 0, "--records", "run", "--json")
    done = run(*command, "--contenders", "base,donor,bridge", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    wide = json.loads(done.stdout)
    assert wide["config"]["dtype"] == "float32"
    other = run(*command, "--contenders", "base,donor,bridge")
    assert other.returncode == 1
    assert "error: run holds an evaluation with another dtype (float32, now bfloat16)" in other.stderr
    narrow = json.loads(run(*command[:-3], "--contenders", "base,donor,bridge", "--json").stdout)
    for one, another in zip(wide["measured"], narrow["measured"], strict=True):
        assert one["bits_per_byte"]["value"] != another["bits_per_byte"]["value"]
