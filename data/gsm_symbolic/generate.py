"""Generate the sample task: grade-school word problems with worked answers, split by template.

    python data/gsm_symbolic/generate.py      # writes train.jsonl, validation.jsonl, test.jsonl

The problems come from `gsm_symbolic` of reasoning-gym (pip install 'vocabridge[data]'), which has about 100
generators, here called templates. Each template fills one story with random names and numbers. A template belongs to
one split only, so that a model cannot answer a test item because it has learned the story. Templates whose worked
answers are often wrong are left out (`audit` decides, README.md lists them).

The same SEED and the same version of reasoning-gym give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from reasoning_gym.arithmetic.gsm_symbolic import gsm_symbolic

SEED = 20241
AUDITED_INSTANCES = 200
"""Number of instances of each template that the audit checks."""
TOLERATED = 0.02
"""Greatest share of defective instances with which a template is kept."""


@dataclass(frozen=True)
class Split:
    """How one split is drawn.

    Attributes:
        name: The file's stem.
        templates: Number of templates, or None for all that remain.
        items_each: Items per template.
        first_seed: Seed of the first instance; a split's seeds lie in [first_seed, first_seed + 1e8).
    """

    name: str
    templates: int | None
    items_each: int
    first_seed: int


SPLITS = (
    Split("test", templates=17, items_each=6, first_seed=300_000_000),
    Split("validation", templates=8, items_each=6, first_seed=200_000_000),
    Split("train", templates=None, items_each=8, first_seed=100_000_000),
)
AUDIT_SEED = 400_000_000


@dataclass(frozen=True)
class Item:
    """One line of the data.

    Attributes:
        id: Split, template and number of the instance, e.g. "test-017-3".
        template: Index of the template in reasoning-gym.
        prompt: "Question: ...", a new line and "Answer:", without a trailing space.
        response: A space, the worked answer, and "#### N" as the last line.
        answer: N.
    """

    id: str
    template: int
    prompt: str
    response: str
    answer: str


# --- one instance --------------------------------------------------------------------------------


def tidy(text: str) -> str:
    """Remove repeated spaces, spaces at line ends, blank lines, and the ".0" of whole numbers."""
    text = re.sub(r"(?<![\d.])(\d+)\.0(?!\d)", r"\1", text)
    lines = (re.sub(r"[^\S\n]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def instance(template: int, seed: int) -> tuple[str, str, str]:
    """Return the tidied question, worked answer and answer of one instance of a template."""
    generator = _dataset.generators[template]
    entry = generator(Random(seed), 1.0)
    return tidy(entry["question"]), tidy(entry["metadata"]["answer_cot"]), tidy(str(entry["answer"]))


_dataset = gsm_symbolic.GSMSymbolicDataset(gsm_symbolic.GSMSymbolicDatasetConfig(seed=SEED, size=1))


# --- the audit -----------------------------------------------------------------------------------

_NUMBER = r"\d+(?:\.\d+)?%?"
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/()]|[^\s\w]|\w+")


def defects(question: str, worked: str, answer: str) -> Iterator[str]:
    """Yield a short description of each defect of an instance.

    In an instance without defects, the last line is "#### N", where N is the answer, a whole number that occurs in the
    worked answer. Every equation of the worked answer holds and is not empty, as "48=48" is. No number has the digits
    of a rounding error.
    """
    *working, last = worked.splitlines()
    if not re.fullmatch(r"-?\d+", answer):
        yield "answer is not a whole number"
    if last != f"#### {answer}":
        yield f"last line {last!r} is not the answer {answer}"
    if answer.lstrip("-") not in re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(working))):
        yield "the working never reaches the answer"
    if re.search(r"\.\d{5,}", question + worked):
        yield "rounding error shown"
    for line in working:
        yield from _false_equations(line)


def _false_equations(line: str) -> Iterator[str]:
    line = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", line)  # 1,000
    line = re.sub(r"[$€£]", "", line)
    line = re.sub(r"^(?:[-•]|\d+\.)\s", "", line)  # bullets
    line = re.sub(r"(?<=[\d)%])(\s*)[x×](?=\s+\d|\d)", r"\1*", re.sub(r"(?<=\w)\s+[x×]\s+(?=\d)", " * ", line))
    line = line.replace("÷", "/").replace("half *", "1/2 *")
    line = re.sub(r"(?<=\w)-(?=[A-Za-z])|(?<=[A-Za-z])-(?=\w)", " ", line)  # 45-minute
    line = re.sub(r"/\s?[A-Za-z]+", "", line)  # units: meters/minute
    for sentence in re.split(r"[.;,:](?!\d)|\bso\b|\bbecause\b|\bor\b", line):
        sides = sentence.split("=")
        for left, right in pairwise(sides):
            left_text, right_text = _tail(left), _head(right)
            if left_text is None or right_text is None:
                continue
            if left_text == right_text:
                yield f"empty equation {left_text}={right_text}"
            elif abs((a := _value(left_text)) - (b := _value(right_text))) > 0.0051 * max(1.0, abs(b) * 1e-3):
                yield f"false equation {left_text}={right_text} ({a:g} is not {b:g})"


def _tail(side: str) -> str | None:
    """Return the arithmetic at the end of one side of an equation, without units; None if it has an unknown."""
    return _arithmetic(side, from_end=True)


def _head(side: str) -> str | None:
    return _arithmetic(side, from_end=False)


def _arithmetic(side: str, *, from_end: bool) -> str | None:
    if re.search(r"(?<![A-Za-z'])\d*[A-HJ-Zb-z](?![A-Za-z'])", side):  # an unknown: 2x, T
        return None
    if not re.search(rf"(?:{_NUMBER}|\))[^\d=]*$" if from_end else rf"^[^\d=]*?(?:{_NUMBER}|\()", side):
        return None
    tokens = [token for token in _TOKEN.findall(side) if not re.match(r"[A-Za-z]", token)]
    # Take the longest run that parses. Units are gone, so "of the 73 graders, 52 - 21" must not become "73 52 - 21".
    spans = [tokens[-n:] if from_end else tokens[:n] for n in range(len(tokens), 0, -1)]
    for span in spans:
        text = re.sub(r"(?<=\d)\(", "*(", "".join(f" {t} " for t in span).replace(" ", ""))
        adjacent = any(re.match(r"\d", a) and re.match(r"\d", b) for a, b in pairwise(span))
        if not adjacent and _value(text) == _value(text):
            return text
    return None


def _value(text: str) -> float:
    """Return the value of an arithmetic expression, or nan if the text is none."""
    try:
        return _evaluate(ast.parse(re.sub(r"([\d.]+)%", r"(\1/100)", text), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return float("nan")


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp):
        a, b = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
    raise ValueError(ast.dump(node))


@dataclass(frozen=True)
class Audit:
    """The result of the audit of one template.

    Attributes:
        template: Index of the template.
        defective: Share of the checked instances that have a defect.
        example: First example of the most common kind of defect; empty if there is none.
    """

    template: int
    defective: float
    example: str

    @property
    def sound(self) -> bool:
        """Whether the template is kept."""
        return self.defective <= TOLERATED


def audit(template: int) -> Audit:
    """Check AUDITED_INSTANCES instances of a template."""
    defective = 0
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    for number in range(AUDITED_INSTANCES):
        descriptions = list(defects(*instance(template, AUDIT_SEED + template * 10_000 + number)))
        defective += bool(descriptions)
        for defect in descriptions:
            kind = " ".join(defect.split()[:2])
            kinds[kind] += 1
            first.setdefault(kind, defect)
    example = first[kinds.most_common(1)[0][0]] if kinds else ""
    return Audit(template, defective / AUDITED_INSTANCES, example)


# --- the splits ----------------------------------------------------------------------------------


def draw(split: Split, template: int) -> Iterator[Item]:
    """Yield the items of one template in a split, without defects and with distinct prompts."""
    seen: set[str] = set()
    for attempt in range(split.items_each * 50):
        question, worked, answer = instance(template, split.first_seed + template * 10_000 + attempt)
        if question in seen or any(defects(question, worked, answer)):
            continue
        yield Item(
            id=f"{split.name}-{template:03d}-{len(seen)}",
            template=template,
            prompt=f"Question: {question}\nAnswer:",
            response=f" {worked}",
            answer=answer,
        )
        seen.add(question)
        if len(seen) == split.items_each:
            return
    raise RuntimeError(f"template {template} has too few distinct instances for split {split.name}")


def generate(audits: list[Audit]) -> dict[str, list[Item]]:
    """Return the items of all splits, by name, from the templates that the audit kept."""
    rng = Random(SEED)
    templates = [entry.template for entry in audits if entry.sound]
    rng.shuffle(templates)
    items: dict[str, list[Item]] = {}
    for split in SPLITS:
        count = split.templates if split.templates is not None else len(templates)
        chosen, templates = templates[:count], templates[count:]
        items[split.name] = [item for template in sorted(chosen) for item in draw(split, template)]
        rng.shuffle(items[split.name])
    return items


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Generate the sample task's three JSONL files.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    output: Path = parser.parse_args().output
    audits = [audit(template) for template in sorted(gsm_symbolic.tasks_ok)]
    print("| template | defective instances | example |\n| --- | --- | --- |")
    for entry in audits:
        if entry.defective:
            verdict = "kept" if entry.sound else "left out"
            print(f"| {entry.template} ({verdict}) | {entry.defective:.1%} | {entry.example} |")
    output.mkdir(parents=True, exist_ok=True)
    for name, items in generate(audits).items():
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
        (output / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
        print(f"{name}: {len(items)} items of {len({item.template for item in items})} templates")


if __name__ == "__main__":
    main()
