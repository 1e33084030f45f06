"""GSM8K and E2E as JSONL of prompts and responses, from the files that their authors publish.

    python benchmarks/tasks.py gsm8k FOLDER --output DIR    FOLDER: train.jsonl and test.jsonl, `question` and `answer`
    python benchmarks/tasks.py e2e FOLDER --output DIR      FOLDER: devset.csv and testset_w_refs.csv, `mr` and `ref`
    python benchmarks/tasks.py extraction FOLDER --output DIR   the same files; of a description the record

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl`: of GSM8K 600, 60 and 200 problems, without the marks of the
calculator (`<<...>>`); of E2E 1,000 descriptions, and 95 and 200 of other restaurants, one an input. No input stands in
two files. Extraction has 600 pairs, and 60 and 200 of restaurants whose names are in no other file; a record has a
field a line. What is taken is drawn with a fixed seed, in that order: the first lines of a file are a smaller sample.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Item = dict[str, str]


def gsm8k(folder: Path) -> dict[str, list[Item]]:
    """Problems and their solutions; `answer` is the number after `####`."""

    def items(name: str) -> list[Item]:
        found = []
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            fields = json.loads(line)
            solution = re.sub(r"<<.*?>>", "", fields["answer"])
            prompt = f"Question: {fields['question']}\nAnswer:"
            answer = solution.rpartition("####")[2].strip().replace(",", "")
            found.append({"prompt": prompt, "response": f" {solution}", "answer": answer})
        return _shuffled(found)

    trained = items("train.jsonl")
    return {"train": trained[:600], "validation": trained[600:660], "test": items("test.jsonl")[:200]}


def e2e(folder: Path) -> dict[str, list[Item]]:
    """Restaurants and one description each, but in training, where an input may have several."""

    def by_input(name: str) -> list[list[Item]]:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            several: dict[str, list[Item]] = {}
            for row in csv.DictReader(file):
                item = {"prompt": f"Data: {row['mr']}\nText:", "response": f" {row['ref']}"}
                several.setdefault(row["mr"], []).append(item)
        return _shuffled(several.values())

    known = by_input("devset.csv")
    unseen = [several for several in by_input("testset_w_refs.csv") if several[0]["prompt"] not in _prompts(known)]
    return {
        "train": _shuffled(item for several in known[95:] for item in several)[:1000],
        "validation": [several[0] for several in known[:95]],
        "test": [several[0] for several in unseen[:200]],
    }


def extraction(folder: Path) -> dict[str, list[Item]]:
    """Descriptions and their records, each field on a line of its own; names of the test are seen nowhere else."""

    def items(name: str) -> list[Item]:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            found = []
            for row in csv.DictReader(file):
                lines = re.sub(r"(\w+)\[(.*?)\](, )?", r"\1: \2\n", row["mr"])
                found.append({"prompt": f"Text: {row['ref']}\nRecord:\n", "response": lines})
            return _shuffled(found)

    def name_of(item: Item) -> str:
        return item["response"].partition("\n")[0]

    known, others = items("devset.csv"), items("testset_w_refs.csv")
    held_out = {name_of(known[0])}
    names = {name_of(item) for item in known}
    return {
        "train": [item for item in known if name_of(item) not in held_out][:600],
        "validation": [item for item in known if name_of(item) in held_out][:60],
        "test": [item for item in others if name_of(item) not in names][:200],
    }


def write(splits: dict[str, list[Item]], output: Path) -> None:
    """Write one JSONL file a split."""
    output.mkdir(parents=True, exist_ok=True)
    for name, items in splits.items():
        lines = [json.dumps(item | {"id": f"{name}-{i}"}, ensure_ascii=False) for i, item in enumerate(items)]
        (output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _prompts(inputs: Iterable[list[Item]]) -> set[str]:
    return {several[0]["prompt"] for several in inputs}


def _shuffled(items: Iterable[Any]) -> list[Any]:
    several = list(items)
    return random.Random(0).sample(several, len(several))


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = {"gsm8k": gsm8k, "e2e": e2e, "extraction": extraction}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    write(tasks[arguments.task](arguments.folder), arguments.output)


if __name__ == "__main__":
    main()
