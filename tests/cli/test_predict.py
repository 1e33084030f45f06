"""predict through the real entry point, on tiny models: what it writes is what `align --method expected` reads."""

import json


def test_align_counts_on_what_a_model_says(run, model_folders, text, tmp_path):
    done = run("predict", model_folders.source, "--corpus", text, "--top", 8, "-o", "said.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"reading with {model_folders.source}\n"
    document = json.loads(done.stdout)
    assert document["model"] == str(model_folders.source)
    assert document["bytes"] == text.stat().st_size
    assert document["saved to"] == "said.safetensors"

    from vocabridge.alignment import Alignment, Distributions, Vocabulary

    said = Distributions.open(tmp_path / "said.safetensors")
    said.check(Vocabulary.load(model_folders.source))
    assert said.ids.shape == (document["positions"], 8)
    assert said.text.tobytes() == text.read_bytes()

    pair = (model_folders.source, model_folders.target)
    done = run("align", *pair, "--method", "expected", "--distributions", "said.safetensors", "-o", "pair.safetensors")
    assert done.returncode == 0, done.stderr
    alignment = Alignment.load(tmp_path / "pair.safetensors")
    assert alignment.method == "expected"
    assert alignment.parameters["distributions"] == said.digest


def test_it_prints_a_table_for_people(run, model_folders, text):
    done = run("predict", model_folders.source, "--corpus", text, "-o", "said.safetensors")
    assert done.returncode == 0, done.stderr
    for word in (f"what {model_folders.source} says", "positions", "said.safetensors"):
        assert word in done.stdout
