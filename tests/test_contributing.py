"""What CONTRIBUTING.md says of the tree is so, and its recipes work as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vocabridge.evaluation.contenders import label_of
from vocabridge.options import Contender, ProjectionMethod

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

USE_A_METHOD = """
import json
import sys
from pathlib import Path
import torch
import vocabridge
from vocabridge import Bridge, Combination, ProjectionMethod, build_bridge, load, save_bridge

copy, base, tuned, untuned, combination, folder = map(Path, sys.argv[1:])
assert Path(vocabridge.__file__).is_relative_to(copy)
ids = torch.tensor([[0, 300, 301, 302, 303, 304]])

@torch.no_grad()
def change(bridge):
    return bridge(ids).logits - bridge.base(ids).logits

combination.write_text(json.dumps(Combination(ProjectionMethod("half-linear"), 1.0, 1.0, 0.0).as_dict()))
bridge = build_bridge(str(base), str(tuned), untuned=str(untuned), combination=combination, dtype=torch.float32)
half = change(bridge)
save_bridge(bridge, folder)
again = load(folder, dtype=torch.float32)
assert again.steering.combination.method is ProjectionMethod.HALF_LINEAR
torch.testing.assert_close(change(again), half)
bridge.steering.combination = Combination(ProjectionMethod.HALF_LINEAR, 1.0, 2.0, 0.0)
torch.testing.assert_close(change(bridge), 2 * half, atol=1e-4, rtol=1e-4)
assert half.abs().amax() > 0.01
"""

USE_A_CONTENDER = """
import json
import math
import sys
from pathlib import Path
import pytest
import torch
import vocabridge
from vocabridge import Combination, EvaluationConfig, Form, ProjectionMethod, build_bridge, evaluate
from vocabridge.models.examples import Example, tokenize
from vocabridge.options import BoundaryPolicy

copy, base, tuned, untuned, combination, folder = map(Path, sys.argv[1:])
assert Path(vocabridge.__file__).is_relative_to(copy)
data = copy / "test.jsonl"
item = {"prompt": "Question: 3 foxes?\\nAnswer:", "response": " 6 dogs."}
data.write_text(json.dumps(item))
config = EvaluationConfig(data, base=str(base), value=str(tuned), untuned=str(untuned), answers=1, max_new_tokens=2)
report = evaluate(config, records=folder)
assert [one.name for one in report.measured] == ["base", "donor alone", "bridge", "proxy-tuning", "half and half"]
assert "static mixture, 0.50, 0.50; as-is" in report.costs()[-1]
assert report.differences[-1].against == "half and half"

halves = Combination(ProjectionMethod.STATIC, 0.5, 0.5, 0.0, Form.MIXTURE)
combination.write_text(json.dumps(halves.as_dict()))
bridge = build_bridge(str(base), str(tuned), untuned=str(untuned), combination=combination)
bridge.steering.policy = BoundaryPolicy.AS_IS
tokens = tokenize(Example(item["prompt"], item["response"], None, "", ""), bridge.vocabulary)
with torch.no_grad():
    log_p = bridge(torch.tensor([tokens.ids[:-1]])).logits[0].float().log_softmax(-1)
nats = -sum(float(log_p[i - 1, tokens.ids[i]]) for i in range(tokens.first, len(tokens.ids)))
expected = nats / math.log(2) / len(item["response"])
assert report.measured[-1].bits_per_byte.value == pytest.approx(expected, rel=1e-3)
again = evaluate(config, records=folder)
assert again.as_dict() == report.as_dict()
"""


def section(title):
    """The text below a heading, up to the next one of its level or a higher one."""
    level = title.split()[0]
    (found,) = re.findall(rf"^{re.escape(title)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return found


def test_every_question_has_one_or_two_files_that_exist():
    rows = [line for line in section("## Where is ...").splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 10
    for row in rows:
        files = re.findall("`([^`]+)`", row.split("|")[2])
        assert len(files) in (1, 2), row
        assert all((ROOT / file).is_file() for file in files), row


def test_every_file_it_names_exists():
    named = set(re.findall(r"`([\w./-]+/[\w.-]*)`", TEXT))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_layout_names_every_package():
    folders = {"cli/", "alignment/", "data/", "vocabridge/options.py", "vocabridge/utils/"}
    folders |= {f"vocabridge/{path.parent.name}/" for path in (ROOT / "vocabridge").glob("*/__init__.py")}
    assert {folder for folder in folders if folder not in section("## Layout")} == set()


def test_the_schema_of_a_report_knows_every_projection_method():
    schema = json.loads((ROOT / "docs" / "reference" / "evaluation.schema.json").read_text(encoding="utf-8"))
    assert [method.value for method in ProjectionMethod] == schema["$defs"]["combination"]["properties"]["method"][
        "enum"
    ]


def test_the_schema_of_a_report_knows_every_contender():
    schema = json.loads((ROOT / "docs" / "reference" / "evaluation.schema.json").read_text(encoding="utf-8"))
    assert [*map(label_of, Contender)] == schema["$defs"]["measured"]["properties"]["name"]["enum"]


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("title", "folder", "enum", "script"),
    [
        ("### A projection method", "projection/methods", ProjectionMethod, USE_A_METHOD),
        ("### A contender of an evaluation", "evaluation/contenders", Contender, USE_A_CONTENDER),
    ],
    ids=["projection method", "contender"],
)
def test_what_is_made_by_a_recipe_works(tmp_path, model_folders, title, folder, enum, script):
    recipe, package = section(title), tmp_path / "vocabridge"
    name = re.search(r"`(\w+\.py)`:\n", recipe)[1]
    module, member = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    for part, place in {"vocabridge": ".", "alignment": "alignment", "cli": "cli", "data": "data"}.items():
        shutil.copytree(
            ROOT / part,
            tmp_path / "vocabridge" / place,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    package = tmp_path / "vocabridge"
    (package / folder / name).write_text(module, encoding="utf-8")
    options = package / "options.py"
    text = options.read_text(encoding="utf-8")
    *_, last = enum
    line = f'    {last.name} = "{last.value}"\n'
    assert text.count(line) == 1
    options.write_text(text.replace(line, line + member), encoding="utf-8")

    models = (model_folders.target, model_folders.tuned, model_folders.source)
    arguments = (tmp_path, *models, tmp_path / "combination.json", tmp_path / "folder")
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
