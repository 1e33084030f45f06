"""Bridges in lm-evaluation-harness: the plain base gets the harness's own figures, and all request types agree."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from vocabridge.alignment import Vocabulary, align
from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the harness's own parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TASKS = {
    "foxes_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "target_delimiter": "",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "foxes_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{answer}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
    "foxes_answer": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}


needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is an extra of its own")


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    """Write three tasks to local files, one for each request type."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    docs = [
        {"question": f"Question: {n} foxes?", "choices": [" two", f" {n} dogs", " é"], "gold": n % 3, "answer": f"{n}."}
        for n in (3, 12, 24, 345)
    ]
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, task in TASKS.items():
        source = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(source | {"test_split": "test"} | task))
    return folder


@pytest.fixture
def bridge(tmp_path, model_folders) -> Path:
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(tmp_path / "pair.safetensors")
    made = build_bridge(
        str(model_folders.target),
        str(model_folders.tuned),
        untuned=str(model_folders.source),
        alignment=tmp_path / "pair.safetensors",
    )
    made.steering.combination = Combination(ProjectionMethod.INFORMED, 0.4, 0.6, 0.1)
    save_bridge(made, tmp_path / "bridge")
    return tmp_path / "bridge"


def harness(model, arguments, tasks):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    import vocabridge.evaluation.lm_eval_model  # noqa: F401  # registers the model

    results = simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
        log_samples=True,
    )
    likelihoods = {
        name: [
            sample["filtered_resps"] for sample in sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        ]
        for name in TASKS
    }
    return results["results"], likelihoods


def numbers(responses):
    return torch.tensor(
        [[float(value[0]) if isinstance(value, (list, tuple)) else float(value) for value in row] for row in responses]
    )


@needs_harness
def test_a_bridge_of_strength_0_gets_the_harness_s_figures_of_the_base(bridge, model_folders, tasks):
    """Compare log-likelihoods, texts and every metric with those of `HFLM` on the base."""
    ours, our_samples = harness("vocabridge", f"bridge={bridge},strength=0,dtype=float32", tasks)
    theirs, their_samples = harness("hf", f"pretrained={model_folders.target},dtype=float32", tasks)
    assert our_samples["foxes_answer"] == their_samples["foxes_answer"]
    assert any(text for texts in our_samples["foxes_answer"] for text in texts)
    for name in ("foxes_choice", "foxes_text"):
        torch.testing.assert_close(numbers(our_samples[name]), numbers(their_samples[name]), atol=1e-3, rtol=1e-5)
    for task, metrics in theirs.items():
        for metric, value in metrics.items():
            if isinstance(value, float):
                assert ours[task][metric] == pytest.approx(value, rel=1e-4), (task, metric)


@needs_harness
def test_the_harness_scores_a_bridge_as_plain_forwards_do(bridge, tasks):
    """Compare rolling likelihoods and choices with plain forwards of the bridge."""
    _, samples = harness("vocabridge", f"bridge={bridge},dtype=float32", tasks)
    loaded = load(bridge, dtype=torch.float32)
    vocabulary = loaded.vocabulary

    def log_likelihood(text, bos, last=None):
        ids = [*bos, *vocabulary.encode(text).ids.tolist()]
        with torch.no_grad():
            log_p = loaded(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
        of_tokens = log_p[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return of_tokens[-last:].sum().item() if last else of_tokens.sum().item()

    docs = [json.loads(line) for line in (tasks / "test.jsonl").read_text().splitlines()]
    for doc, rolled, chosen in zip(docs, samples["foxes_text"], samples["foxes_choice"], strict=True):
        expected = log_likelihood(f"{doc['question']} {doc['answer']}", [vocabulary.roles["bos"]])
        likelihood = rolled[0][0] if isinstance(rolled[0], (list, tuple)) else rolled[0]
        assert math.isclose(float(likelihood), expected, rel_tol=1e-3, abs_tol=1e-2)
        # transformers adds no bos token with the tiny tokenizer.
        question, total = (len(vocabulary.encode(doc["question"] + choice).ids) for choice in ("", " two"))
        expected = log_likelihood(doc["question"] + " two", [], total - question)
        assert math.isclose(float(chosen[0][0]), expected, rel_tol=1e-3, abs_tol=1e-2)


@needs_harness
def test_the_command_line_knows_the_model(bridge, tasks, tmp_path):
    options = {"--model": "vocabridge", "--model_args": f"bridge={bridge},dtype=float32", "--tasks": "foxes_choice"}
    options |= {"--include_path": str(tasks), "--device": "cpu", "--output_path": str(tmp_path / "results")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vocabridge.harness",
            *(word for option in options.items() for word in option),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "results").rglob("results_*.json")
    assert 0 <= json.loads(results.read_text())["results"]["foxes_choice"]["acc,none"] <= 1


def test_without_the_harness_an_error_names_what_to_install(tmp_path):
    script = (
        "import runpy, sys\n"
        "sys.modules['lm_eval.api.registry'] = None\n"
        "runpy.run_module('vocabridge.harness', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "error: lm-evaluation-harness is missing; run: pip install 'vocabridge[harness]'\n"


def test_without_the_harness_help_answers_before_torch_is_imported(tmp_path):
    script = (
        "import runpy, sys\n"
        "sys.modules['lm_eval.api.registry'] = None\n"
        "sys.argv = ['harness', '--help']\n"
        "try:\n    runpy.run_module('vocabridge.harness', run_name='__main__')\n"
        "finally:\n    print({'torch', 'transformers'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "--model_args bridge=my-bridge" in done.stdout
    assert "pip install 'vocabridge[harness]'" in done.stdout
    assert done.stderr == "set()\n"
