"""Stdout and stderr of `train`, `eval`, `bridge` and `generate` through the real entry point, on tiny models."""

import json
import re

from vocabridge.models.examples import load_examples


def write(path, numbers):
    lines = [
        {
            "prompt": f"Question: {n} foxes?\nAnswer:",
            "response": f" {n}*2={2 * n} foxes.\n#### {2 * n}\n",
            "answer": str(2 * n),
        }
        for n in numbers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_train_then_eval_then_bridge_then_generate(run, model_folders, model_pair, tmp_path):
    """Run the commands in this order, each with the output of the one before."""
    training = write(tmp_path / "train.jsonl", [3, 12, 24, 345, 7])
    validation = write(tmp_path / "validation.jsonl", [5, 14])
    test = write(tmp_path / "test.jsonl", [8, 21])
    assert len(load_examples(training)) == 5

    options = ("--epochs", 3, "--batch-size", 2, "--learning-rate", 0.01, "--method", "lora", "--rank", 2)
    done = run(
        "train",
        training,
        "-o",
        "values",
        "--source",
        model_folders.source,
        *options,
        "--validation",
        validation,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"training a value network for {model_folders.source}\n"
    trained = json.loads(done.stdout)
    assert (trained["folder"], trained["examples"], trained["steps"]) == ("values", 5, 9)
    assert trained["losses"][-1] < trained["losses"][0]
    assert trained["validation_after"] < trained["validation_before"]

    models = ("--base", model_folders.target, "--value", "values", "--alignment", model_pair)
    done = run(
        "eval",
        *models,
        *("--data", test, "--validation", validation, "--answers", 1),
        *("-o", "report.json", "--html", "report.html", "--records", "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"evaluating {model_folders.target}\n"
    report = json.loads(done.stdout)
    kinds = ["base", "donor alone", "bridge", "mixture", "nudging", "proxy-tuning"]
    assert [contender["name"] for contender in report["measured"]] == kinds
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert {file.name for file in (tmp_path / "run").iterdir()} >= {"run.json", "records-0.jsonl"}
    assert (report["items"], report["answered"]) == (2, 1)
    assert json.loads((tmp_path / "report.json").read_text()) == report

    done = run("bridge", "-o", "my-bridge", *models, "--combination", "report.json", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"loading {model_folders.target}\n"
    document = json.loads(done.stdout)
    assert (document["bridge"], document["base"]) == ("my-bridge", str(model_folders.target))
    expected = {"source": "values", "combination": report["combination"], "strength": 1.0}
    assert document["steerings"] == [expected]

    limits = ("--max-new-tokens", 12)
    done = run("generate", "my-bridge", "Question: 24", *limits, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "loading my-bridge\n"
    document = json.loads(done.stdout)
    assert (document["bridge"], document["prompt"]) == ("my-bridge", "Question: 24")
    assert 1 <= document["tokens"] <= 12
    assert 0 <= document["changed_rate"] <= 1
    assert document["tokens_per_second"] == document["tokens"] / document["seconds"]

    plain = run("generate", "my-bridge", "Question: 24", *limits)
    assert plain.stdout == document["text"] + "\n"
    begun, end = plain.stderr.splitlines()
    assert begun == "loading my-bridge"
    share = f"{document['changed_rate']:.0%}"
    assert re.fullmatch(rf"{document['tokens']} tokens, [\d.]+ tokens/s, {share} changed by steering", end)


def test_train_and_eval_print_tables(run, model_folders, model_pair, tmp_path):
    data = write(tmp_path / "data.jsonl", [3, 12])
    done = run("train", data, "-o", "values", "--source", model_folders.source, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "value network in values" in done.stdout
    assert "size of the change by epoch" in done.stdout
    models = ("--base", model_folders.target, "--value", "values", "--alignment", model_pair)
    done = run("eval", *models, "--data", data, "--limit", 1)
    assert done.returncode == 0, done.stderr
    for word in ("base", "donor alone", "bridge", "bits per byte", "bridge against donor alone", "reference"):
        assert word in done.stdout


def test_an_expert_pair_steers_without_training(run, model_folders, model_pair, tmp_path):
    models = ("--value", model_folders.tuned, "--untuned", model_folders.source, "--alignment", model_pair)
    data = write(tmp_path / "data.jsonl", [3])
    done = run("eval", "--base", model_folders.target, *models, "--data", data, "--answers", 0, "--json")
    assert done.returncode == 0, done.stderr
    assert [contender["accuracy"] for contender in json.loads(done.stdout)["measured"]] == [
        None
    ] * 4  # with the expert pair as it is
