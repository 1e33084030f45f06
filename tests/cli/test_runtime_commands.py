"""train, generate and eval through the real entry point, on tiny models: what is on stdout, and what on stderr."""

import json

from vocabridge.examples import load_examples


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


def test_train_then_eval_then_generate(run, model_folders, model_pair, tmp_path):
    """The three commands one after the other, each with what the one before it wrote."""
    training = write(tmp_path / "train.jsonl", [3, 12, 24, 345, 7])
    validation = write(tmp_path / "validation.jsonl", [5, 14])
    test = write(tmp_path / "test.jsonl", [8, 21])
    assert len(load_examples(training)) == 5

    options = ("--epochs", 3, "--batch-size", 2, "--learning-rate", 0.01, "--rank", 2)
    done = run(
        "train",
        training,
        "-o",
        "values",
        "--base",
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
        "eval", *models, "--data", test, "--validation", validation, "--answers", 1, "-o", "report.json", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"evaluating {model_folders.target}\n"
    report = json.loads(done.stdout)
    assert [one["name"] for one in report["measured"]] == ["base", "donor alone", "bridge"]
    assert (report["items"], report["answered"]) == (2, 1)
    assert json.loads((tmp_path / "report.json").read_text()) == report

    limits = ("--max-new-tokens", 12)
    done = run("generate", "Question: 24", *models, "--combination", "report.json", *limits, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"loading {model_folders.target}\n"
    document = json.loads(done.stdout)
    assert document["combination"] == report["combination"]
    assert (document["prompt"], document["untuned"], document["strength"]) == ("Question: 24", None, 1.0)

    plain = run("generate", "Question: 24", *models, "--combination", "report.json", *limits)
    assert plain.stdout == document["text"] + "\n"


def test_tables_for_people(run, model_folders, model_pair, tmp_path):
    data = write(tmp_path / "data.jsonl", [3, 12])
    done = run("train", data, "-o", "values", "--base", model_folders.source, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "value network in values" in done.stdout
    assert "size of the change, each epoch" in done.stdout
    models = ("--base", model_folders.target, "--value", "values", "--alignment", model_pair)
    done = run("eval", *models, "--data", data, "--limit", 1)
    assert done.returncode == 0, done.stderr
    for word in ("base", "donor alone", "bridge", "bits per byte", "bridge against donor alone", "reference"):
        assert word in done.stdout


def test_a_contrast_pair_steers_without_training(run, model_folders, model_pair, tmp_path):
    models = ("--value", model_folders.tuned, "--untuned", model_folders.source, "--alignment", model_pair)
    texts = []
    for strength in (0, 2):
        options = ("--strength", strength, "--max-new-tokens", 8, "--json")
        done = run("generate", "The fox", "--base", model_folders.target, *models, *options)
        assert done.returncode == 0, done.stderr
        texts.append(json.loads(done.stdout)["text"])
    assert texts[0] != texts[1]
    data = write(tmp_path / "data.jsonl", [3])
    done = run("eval", "--base", model_folders.target, *models, "--data", data, "--answers", 0, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["accuracy"] for one in json.loads(done.stdout)["measured"]] == [None] * 3


def test_without_an_alignment_it_is_built_once_and_kept(run, model_folders):
    models = ("--base", model_folders.target, "--value", model_folders.tuned, "--untuned", model_folders.source)
    done = run("generate", "The fox", *models, "--max-new-tokens", 2, "--json")
    assert done.returncode == 0, done.stderr
    entries = json.loads(run("cache", "list", "--json").stdout)["entries"]
    assert [entry["alignment"]["method"] for entry in entries] == ["default"]
