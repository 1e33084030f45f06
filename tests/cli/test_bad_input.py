"""An error of a user ends in one sentence and status 1, and leaves nothing half-written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from vocabridge.data import corpus_files

BEGUN = (
    "aligning ",
    "counting ",
    "evaluating ",
    "loading ",
    "merging ",
    "predicting ",
    "reading ",
    "scoring ",
    "training ",
)


def one_sentence(done):
    """Return the only line `error: ...` on stderr, after lines of progress."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(BEGUN)]
    assert len(lines) == 1, done.stderr
    assert re.match(r"error: \S", lines[0])
    assert "defect" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("align", "", "target", "-o", "x"), "source"),
        (("bridge", "-o", "b", "--base", "", "--value", "v"), "base"),
        (("bridge", "-o", "b", "--base", "b", "--value", ""), "value"),
        (("bridge", "--output=", "--base", "b", "--value", "v"), "output"),
        (("pairs", "a", "", "-o", "x"), "tokenizer"),
        (("audit", ""), "alignment"),
        (("train", "", "-o", "x", "--source", "s"), "data"),
        (("align", "a", "b", "--corpus", ""), "corpus"),
    ],
)
def test_an_empty_name_is_wrong_usage(run, command, what):
    done = run(*command)
    assert done.returncode == 2
    assert f"The name of the {what} is empty; give one" in " ".join(done.stderr.split())


@pytest.fixture
def pair(run, tokenizer_folders, text, tmp_path):
    path = tmp_path / "pair.safetensors"
    run("align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", text, "-o", path)
    return path


@pytest.mark.parametrize("place", [-1, -200, 300])
def test_an_altered_matrix_is_refused(run, pair, place):
    data = bytearray(pair.read_bytes())
    data[place] ^= 0x10
    pair.write_bytes(data)
    assert str(pair) in one_sentence(run("inspect", pair))


def test_a_truncated_matrix_is_refused(run, pair):
    pair.write_bytes(pair.read_bytes()[:-100])
    assert str(pair) in one_sentence(run("inspect", pair, "--json"))


def test_a_file_that_is_not_an_alignment_is_refused(run, text):
    assert str(text) in one_sentence(run("inspect", text))


@pytest.mark.parametrize("name", ["nowhere/tokenizer.json", "nowhere.gguf", "empty"])
def test_a_missing_tokenizer_is_named(run, tokenizer_folders, tmp_path, name):
    (tmp_path / "empty").mkdir()
    done = run("align", tmp_path / name, tokenizer_folders.target, HF_HUB_OFFLINE=1)
    assert name in one_sentence(done)


NOSUCH = ["align nosuch nosuch", "predict nosuch -o predictions.safetensors", "bridge --base nosuch --value v -o b"]


@pytest.mark.quick(1)
@pytest.mark.parametrize("command", NOSUCH)
def test_without_a_network_a_mistyped_name_is_one_sentence(run, tmp_path, command):
    done = run(*command.split(), HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=tmp_path / "hub")
    assert "nosuch: no local file or folder has this name, and the hub cannot be reached" in one_sentence(done)


@pytest.mark.quick(1)
@pytest.mark.parametrize("command", NOSUCH)
def test_a_command_asks_a_failing_hub_only_once(run, hub, tmp_path, command):
    endpoint, requests = hub(503)
    done = run(*command.split(), HF_ENDPOINT=endpoint, HF_HOME=tmp_path / "hub")
    assert "nosuch: no local file or folder has this name, and the hub cannot be reached" in one_sentence(done)
    assert len(requests) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "none"}}'])
def test_a_broken_tokenizer_is_named(run, tokenizer_folders, tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    done = run("align", tokenizer_folders.source, tmp_path / "tokenizer.json")
    assert "tokenizer.json" in one_sentence(done)


def test_a_broken_gguf_is_named(run, tokenizer_folders, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00junk")
    assert "model.gguf" in one_sentence(run("align", tmp_path / "model.gguf", tokenizer_folders.target))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe not UTF-8", "né".encode("latin-1")])
def test_a_corpus_that_is_empty_or_not_utf8_is_refused(run, tokenizer_folders, tmp_path, content):
    (tmp_path / "corpus.txt").write_bytes(content)
    done = run(
        "align",
        tokenizer_folders.source,
        tokenizer_folders.target,
        "--corpus",
        "corpus.txt",
        "-o",
        "pair.safetensors",
    )
    assert "corpus" in one_sentence(done)
    assert not (tmp_path / "pair.safetensors").exists()
    assert json.loads(run("cache", "list", "--json").stdout)["entries"] == []


def test_an_empty_folder_as_corpus_is_refused(run, tokenizer_folders, tmp_path):
    (tmp_path / "texts").mkdir()
    done = run("align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", "texts")
    assert "corpus is empty" in one_sentence(done)


def test_a_corpus_for_a_method_that_reads_no_text_is_refused(run, tokenizer_folders, text):
    done = run(
        "align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", text, "--method", "identical-bytes"
    )
    assert "identical-bytes" in one_sentence(done)


def test_a_cache_folder_that_cannot_be_used_is_named(run, tokenizer_folders, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(
        "align",
        tokenizer_folders.source,
        tokenizer_folders.target,
        "--method",
        "identical-bytes",
        VOCABRIDGE_CACHE=tmp_path / "file",
    )
    assert str(tmp_path / "file") in one_sentence(done)


HEEDING_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command with SIGINT enabled, because a shell in whose background the tests run has it ignored."""


@pytest.fixture
def slow(tmp_path):
    """Return the arguments of a count that takes some seconds."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, path in enumerate(corpus_files() * 4):
        (corpus / f"{number}.txt").write_bytes(path.read_bytes())
    return ("--corpus", corpus, "-o", tmp_path / "pair.safetensors", "--json")


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("how", "command", "jobs"),
    [
        (signal.SIGINT, "align", 1),
        (signal.SIGINT, "align", 2),
        (signal.SIGINT, "align --shard 1/1", 2),
        (signal.SIGINT, "pairs", 1),
        (signal.SIGTERM, "align", 1),
        (signal.SIGTERM, "align", 2),
        (signal.SIGKILL, "align", 2),
    ],
)
def test_a_stopped_command_leaves_nothing_half_written(
    entry_point, tokenizer_folders, tmp_path, slow, how, command, jobs
):
    pair = (tokenizer_folders.source, tokenizer_folders.target)
    arguments = [*command.split(), *map(str, (*pair, *slow)), "--jobs", str(jobs)]
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDING_SIGINT, entry_point, *arguments],
        env=os.environ | {"VOCABRIDGE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    begun = process.stderr.readline()
    assert begun.startswith(BEGUN)
    time.sleep(0.3)  # the count has begun, or its processes are starting
    if how is signal.SIGKILL:
        process.send_signal(how)
    else:  # to every process, as a terminal and Slurm do
        os.killpg(process.pid, how)
    out, err = process.communicate(timeout=60)

    assert out == ""
    if how is not signal.SIGKILL:
        word = "interrupted" if how is signal.SIGINT else "terminated"
        assert "Traceback" not in err
        assert process.returncode == 128 + how
        assert err.splitlines()[-1] == f"error: {word}; nothing is left half-written"
    else:
        assert process.returncode == -signal.SIGKILL
    assert _ends(process.pid)
    assert not (tmp_path / "pair.safetensors").exists()
    assert not list(cache.rglob("*.safetensors"))


def test_sigterm_to_a_command_alone_ends_its_worker_processes_too(entry_point, tokenizer_folders, slow):
    """Send SIGTERM as `docker stop` does."""
    pair = (tokenizer_folders.source, tokenizer_folders.target)
    command = [entry_point, "align", *map(str, (*pair, *slow)), "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.3)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "error: terminated; nothing is left half-written\n")
    assert _ends(process.pid)


def _ends(group: int) -> bool:
    """Return whether all processes of a group soon end, because they notice that the first one has ended."""
    deadline = time.monotonic() + 30
    while _lives(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _lives(group)


def _lives(group: int) -> bool:
    """Return whether any process of the group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_after_a_killed_build_the_cache_is_usable(run, command_server, tokenizer_folders, tmp_path, slow):
    arguments = ["align", *map(str, (tokenizer_folders.source, tokenizer_folders.target, *slow))]
    cache = tmp_path / "cache"
    environment = command_server.environment(VOCABRIDGE_CACHE=str(cache))
    with (
        tempfile.TemporaryFile() as output,
        command_server.start(arguments, cwd=tmp_path, env=environment, files=(output, output, output)) as process,
    ):
        deadline = time.monotonic() + 60
        while not list(cache.rglob("*.lock")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert not list(cache.rglob("*.safetensors"))
    again = run(*arguments, VOCABRIDGE_CACHE=cache)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["summary"]["pairs"] > 0
    assert json.loads(run("cache", "verify", "--json", VOCABRIDGE_CACHE=cache).stdout)["entries"]
    run("cache", "prune", VOCABRIDGE_CACHE=cache)
    assert not [path for path in cache.rglob("*") if path.suffix == ".part"]


@pytest.fixture
def shards(run, tokenizer_folders, text):
    """Count both shards of an alignment, s1 and s2, and one shard of another alignment, t2."""
    source, target = tokenizer_folders.source, tokenizer_folders.target
    for name, shard, pair in (
        ("s1", "1/2", (source, target)),
        ("s2", "2/2", (source, target)),
        ("t2", "2/2", (target, source)),
    ):
        run("align", *pair, "--corpus", text, "--shard", shard, "-o", name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("s1", "of 2 shards these are missing: 2/2"),
        ("s1 s1", "shard 1/2 is there twice"),
        ("s1 t2", "t2: of another build than s1 (the source tokenizer differs)"),
        ("s1 text.txt", "text.txt: not readable as partial counts"),
        ("s1 cut", "cut: not readable as partial counts"),
        ("s1 s2 --source nowhere/x.json", "nowhere/x.json: no such file or folder"),
    ],
)
def test_shards_that_are_missing_or_do_not_fit_are_refused(run, shards, tmp_path, arguments, message):
    (tmp_path / "cut").write_bytes((tmp_path / "s2").read_bytes()[:-9])
    done = run("merge", *arguments.split(), "-o", "merged.safetensors")
    assert message in one_sentence(done)
    assert not (tmp_path / "merged.safetensors").exists()


@pytest.mark.parametrize("method", ["identical-bytes", "cooccurrence,retokenize"])
def test_a_method_that_cannot_count_in_shards_is_refused(run, tokenizer_folders, text, tmp_path, method):
    pair = (tokenizer_folders.source, tokenizer_folders.target, "--corpus", text)
    done = run("align", *pair, "--method", method, "--shard", "1/2", "-o", "shard")
    assert f"the method {method} cannot be counted in shards" in one_sentence(done)
    assert not (tmp_path / "shard").exists()


def test_inputs_that_a_method_lacks_or_does_not_take_are_named(run, tokenizer_folders, tmp_path):
    pair = (tokenizer_folders.source, tokenizer_folders.target)
    assert "embeddings" in one_sentence(run("align", *pair, "--method", "embedding"))
    assert "distributions" in one_sentence(run("align", *pair, "--method", "expected"))
    np.save(tmp_path / "table.npy", np.ones((3, 2), np.float32))
    tables = ("--source-embeddings", "table.npy", "--target-embeddings", "table.npy")
    assert "takes no embeddings" in one_sentence(run("align", *pair, "--method", "identical-bytes", *tables))
    assert "embeddings" in one_sentence(run("align", *pair, "--method", "embedding", *tables))


def test_a_bad_tokenizer_or_corpus_leaves_no_folder_of_pairs(run, tokenizer_folders, tmp_path):
    pair = (tokenizer_folders.source, tokenizer_folders.target)
    assert "nowhere.json" in one_sentence(run("pairs", *pair, "nowhere.json", "-o", "pairs"))
    assert "would both be called" in one_sentence(run("pairs", *pair, pair[0], "-o", "pairs"))
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    for jobs in (1, 2):
        done = run("pairs", *pair, "--corpus", "bad.txt", "--jobs", jobs, "-o", "pairs")
        assert "bad.txt: not UTF-8 text at byte 2" in one_sentence(done)
    assert not (tmp_path / "pairs").exists()


@pytest.fixture
def examples(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "Question: 3?", "response": " 6\\n#### 6"}\n' * 3)
    return path


@pytest.fixture
def values(run, model_folders, examples, tmp_path):
    done = run(
        "train",
        examples,
        "-o",
        "values",
        "--source",
        model_folders.source,
        "--epochs",
        1,
        "--method",
        "lora",
        "--rank",
        1,
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "values"


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 4, is not valid JSON"), ('{"prompt": "a"}', 'line 4, has no string "response"')],
)
def test_a_line_of_training_data_that_is_wrong_is_named(run, model_folders, examples, tmp_path, line, message):
    with examples.open("a") as file:
        file.write(line + "\n")
    done = run("train", examples, "-o", "values", "--source", model_folders.source)
    assert f"{examples}, {message}" in one_sentence(done)
    assert not (tmp_path / "values").exists()


def test_an_output_folder_that_is_not_empty_is_left_alone(run, model_folders, examples, tmp_path):
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "mine.txt").write_text("mine")
    done = run("train", examples, "-o", "values", "--source", model_folders.source)
    assert "values is not empty" in one_sentence(done)
    assert [path.name for path in (tmp_path / "values").iterdir()] == ["mine.txt"]


def test_an_example_that_is_too_long_is_named(run, model_folders, examples):
    done = run("train", examples, "-o", "values", "--source", model_folders.source, "--max-length", 5)
    assert f"{examples}, line 1, has " in one_sentence(done)


def test_a_missing_base_is_named(run, examples, tmp_path):
    done = run("train", examples, "-o", "values", "--source", tmp_path / "nowhere")
    assert "nowhere" in one_sentence(done)


def test_a_value_network_that_does_not_fit_or_is_damaged_is_refused(
    run, model_folders, values, model_pair, examples, tmp_path
):
    """Try some with `bridge` and others with `eval`, because both load a value network in the same way."""
    base = ("bridge", "-o", "out", "--base", model_folders.target)
    assert "nowhere" in one_sentence(run(*base, "--value", "nowhere"))

    wrong = ("--base", model_folders.source, "--value", values, "--alignment", model_pair)
    assert "made for the target tokenizer" in one_sentence(run("bridge", "-o", "out", *wrong))

    reverse = ("--value", model_folders.target, "--untuned", model_folders.target, "--alignment", model_pair)
    assert "made for the source tokenizer" in one_sentence(run(*base, *reverse))

    data = bytearray(model_pair.read_bytes())
    data[-200] ^= 0x10
    model_pair.write_bytes(data)
    altered = run("eval", *base[3:], "--value", values, "--alignment", model_pair, "--data", examples)
    assert f"{model_pair}: altered or damaged" in one_sentence(altered)

    weights = values / "value_network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    assert "altered or damaged" in one_sentence(run(*base, "--value", values))
    assert not (tmp_path / "out").exists()


def test_a_value_network_for_another_tokenizer_is_refused(run, model_folders, values):
    config = json.loads((values / "value_network.json").read_text())
    (values / "value_network.json").write_text(json.dumps(config | {"source": str(model_folders.target)}))
    done = run("bridge", "-o", "out", "--base", model_folders.target, "--value", values)
    assert "use the source model that it was trained on" in one_sentence(done)


@pytest.mark.parametrize(("rows", "fits"), [(720, True), (690, True), (500, False)])
def test_a_base_may_have_rows_without_text_that_the_alignment_lacks(
    run, model_folders, model_pair, tmp_path, rows, fits
):
    from transformers import AutoModelForCausalLM

    shutil.copytree(model_folders.target, tmp_path / "resized")
    model = AutoModelForCausalLM.from_pretrained(model_folders.target)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    models = ("--value", model_folders.tuned, "--untuned", model_folders.source, "--alignment", model_pair)
    done = run("bridge", "-o", "out", "--base", "resized", *models)
    assert (tmp_path / "out").exists() == fits
    if fits:
        assert done.returncode == 0, done.stderr
    else:
        assert "made for the target tokenizer" in one_sentence(done)


def test_an_expert_pair_of_two_families_is_refused(run, model_folders):
    models = ("--base", model_folders.target, "--value", model_folders.tuned, "--untuned", model_folders.target)
    assert "different tokenizers" in one_sentence(run("bridge", "-o", "out", *models))


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--combination", "data.jsonl"), 1, "data.jsonl is not a combination"),
        (("--strength", "much"), 2, "'much' is no strength"),
        (("--plausibility-threshold", 2), 2, "Invalid value for '--plausibility-threshold': 2.0"),
    ],
)
def test_the_options_of_a_steering_are_checked(
    run, model_folders, examples, model_pair, tmp_path, options, status, message
):
    models = ("--base", model_folders.target, "--value", model_folders.tuned, "--untuned", model_folders.source)
    done = run("bridge", "-o", "out", *models, "--alignment", model_pair, *options)
    assert done.returncode == status
    assert message in (one_sentence(done) if status == 1 else done.stderr)
    assert not (tmp_path / "out").exists()


def test_test_items_among_the_validation_items_are_refused(run, model_folders, examples, tmp_path):
    shutil.copy(examples, tmp_path / "validation.jsonl")
    models = ("--base", model_folders.target, "--value", model_folders.tuned, "--untuned", model_folders.source)
    done = run("eval", *models, "--data", examples, "--validation", "validation.jsonl")
    assert "are also in validation.jsonl" in one_sentence(done)


def test_a_score_with_another_model_or_target_is_refused(run, model_folders, model_pair, text):
    command = ("score", model_pair, "--text", text, "--model")
    other = one_sentence(run(*command, model_folders.target))
    assert "made for the source tokenizer" in other
    assert str(model_folders.target) in other
    wrong = run(*command, model_folders.source, "--target", model_folders.source)
    assert "made for the target tokenizer" in one_sentence(wrong)


def test_an_error_asks_to_name_a_target_that_has_moved(run, model_folders, text, tmp_path):
    from vocabridge.alignment import align

    shutil.copytree(model_folders.target, tmp_path / "moving")
    pair = tmp_path / "pair.safetensors"
    align(model_folders.source, tmp_path / "moving", method="retokenize", cache=False).save(pair)
    (tmp_path / "moving").rename(tmp_path / "moved")
    command = ("score", pair, "--model", model_folders.source, "--text", text)
    error = one_sentence(run(*command))
    assert str(tmp_path / "moving") in error
    assert "name it with --target" in error
    assert run(*command, "--target", "moved").returncode == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "corpus is empty"), (b"a", "too short to score")],
)
def test_a_text_that_cannot_be_scored_is_refused(run, model_folders, model_pair, tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    done = run("score", model_pair, "--model", model_folders.source, "--text", "bad.txt")
    assert message in one_sentence(done)


def test_predict_with_a_missing_model_writes_nothing(run, text, tmp_path):
    done = run("predict", tmp_path / "nowhere", "--corpus", text, "-o", "predictions.safetensors")
    assert "nowhere" in one_sentence(done)
    assert not (tmp_path / "predictions.safetensors").exists()


def test_predictions_of_another_model_are_refused(run, model_folders, tmp_path):
    from vocabridge.alignment import Distributions, Vocabulary

    at, ids, p = np.zeros(1, np.int64), np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    predictions = Distributions.of(
        ["The"], [at], [ids], [p], source=Vocabulary.load(model_folders.target), model="other"
    )
    predictions.save(tmp_path / "predictions.safetensors")
    pair = (model_folders.source, model_folders.target)
    done = run(
        "align", *pair, "--method", "expected", "--distributions", "predictions.safetensors", "-o", "pair.safetensors"
    )
    assert "are over another vocabulary" in one_sentence(done)
    assert not (tmp_path / "pair.safetensors").exists()
