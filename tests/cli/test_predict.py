"""`vocabridge predict` through the real entry point, on tiny models: `align --method expected` reads its file."""

import json


def test_align_counts_with_the_predictions_of_a_model(run, model_folders, text, tmp_path):
    done = run("predict", model_folders.source, "--corpus", text, "--top", 8, "-o", "predictions.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"predicting with {model_folders.source}\n"
    document = json.loads(done.stdout)
    assert document["model"] == str(model_folders.source)
    assert document["bytes"] == text.stat().st_size
    assert document["saved to"] == "predictions.safetensors"

    from vocabridge.alignment import Alignment, Distributions, Vocabulary

    predictions = Distributions.open(tmp_path / "predictions.safetensors")
    predictions.check(Vocabulary.load(model_folders.source))
    assert predictions.ids.shape == (document["positions"], 8)
    assert predictions.text.tobytes() == text.read_bytes()

    pair = (model_folders.source, model_folders.target)
    done = run(
        "align", *pair, "--method", "expected", "--distributions", "predictions.safetensors", "-o", "pair.safetensors"
    )
    assert done.returncode == 0, done.stderr
    alignment = Alignment.load(tmp_path / "pair.safetensors")
    assert alignment.method == "expected"
    assert alignment.parameters["distributions"] == predictions.digest


def test_predict_prints_a_table(run, model_folders, text):
    done = run("predict", model_folders.source, "--corpus", text, "-o", "predictions.safetensors")
    assert done.returncode == 0, done.stderr
    for word in (f"predictions of {model_folders.source}", "positions", "predictions.safetensors"):
        assert word in done.stdout
