"""A run's folder: what is written stays, another config, another process and what is no record are refused."""

from __future__ import annotations

import gc
import json
import random
import weakref

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.contenders import CONTENDERS
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.run_store import Run, Workers
from vocabridge.options import Contender
from vocabridge.utils.progress import no_progress

CONFIG = {"data": "abc", "limit": None, "policies": ["heal"]}


@pytest.fixture
def open_run(tmp_path):
    def open_run(config=CONFIG):
        return Run(tmp_path / "run", config, Workers())

    return open_run


def test_what_is_written_is_there_again_and_the_first_record_of_its_kind_counts(open_run, tmp_path):
    run = open_run()
    run.append("base", "reading", {0: {"bits": [0.1]}, 2: {"bits": [1 / 3]}})
    run.append("base", "reading", {0: {"bits": [9.0]}})
    assert run.setting("bridge", lambda: {"threshold": 0.4})["threshold"] == 0.4
    run.close()
    again = open_run()
    assert again.get("base", "reading", 0)["bits"] == [0.1]
    assert again.get("base", "reading", 2)["bits"] == [1 / 3]
    assert again.get("base", "reading", 1) is again.get("base", "writing", 0) is None
    assert again.setting("bridge", lambda: pytest.fail("it is there"))["threshold"] == 0.4
    assert again.pending("base", "reading", [[0], [1, 2], [2]]) == [[1, 2]]


def test_half_a_record_is_dropped(open_run, tmp_path):
    run = open_run()
    run.append("base", "reading", {0: {"bits": [1.0]}})
    run.close()
    file = tmp_path / "run" / "records-0.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-3])
    again = open_run()
    assert file.read_bytes() == whole
    again.append("base", "reading", {1: {"bits": [2.0]}})
    assert len(file.read_text().splitlines()) == 2


def test_a_config_may_grow_and_not_change(open_run, tmp_path):
    open_run().close()
    open_run(CONFIG | {"ceiling": "def"}).close()
    open_run().close()
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["config"] == CONFIG | {"ceiling": "def"}
    for name, value in (("ceiling", "xyz"), ("policies", ["skip"]), ("limit", 3)):
        with pytest.raises(VocabridgeError, match=f"another {name}"):
            open_run(CONFIG | {name: value})


def test_a_folder_is_for_one_evaluation_at_a_time(open_run):
    run = open_run()
    with pytest.raises(VocabridgeError, match="at work in"):
        open_run()
    run.close()
    open_run().close()


def test_a_line_that_is_no_record_is_named(open_run, tmp_path):
    open_run().close()
    (tmp_path / "run" / "records-0.jsonl").write_text("{}\n")
    with pytest.raises(VocabridgeError, match="line 1, is no record"):
        open_run()


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_of_a_record_is_noticed(open_run, tmp_path):
    run = open_run()
    run.append("base", "reading", {item: {"bits": [item / 7, 1e-9 * item], "text": "café 12"} for item in range(20)})
    run.close()
    file = tmp_path / "run" / "records-0.jsonl"
    whole = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * (len(whole) - 1)), 60):
        file.write_bytes(flipped(whole, bit))
        with pytest.raises(VocabridgeError, match=r"line \d+, is no record \(its checksum differs: .*remove that line"):
            open_run()
    file.write_bytes(flipped(whole, 8 * len(whole) - 1))  # no line's end: as if it had not been written to the end
    again = open_run()
    assert (again.get("base", "reading", 18)["bits"][0], again.get("base", "reading", 19)) == (18 / 7, None)


def test_a_flipped_bit_of_what_is_measured_is_noticed(open_run, tmp_path):
    open_run().close()
    file = tmp_path / "run" / "run.json"
    whole = file.read_bytes()
    values = [at for at, byte in enumerate(whole) if not chr(byte).isspace()]
    for at in random.Random(0).sample(values, 60):
        file.write_bytes(flipped(whole, 8 * at + at % 8))
        with pytest.raises(VocabridgeError, match=r"run\.json is (altered or damaged|damaged|of format)"):
            open_run({})


def test_records_of_before_there_were_checksums_are_refused(open_run, tmp_path):
    open_run().close()
    (tmp_path / "run" / "run.json").write_text(json.dumps(CONFIG))
    with pytest.raises(VocabridgeError, match=r"run\.json is of format None"):
        open_run()


def test_models_that_the_next_contender_does_not_need_are_let_go(open_run, model_folders):
    names = {"base": model_folders.target, "value": model_folders.tuned, "untuned": model_folders.source}
    config = EvaluationConfig("test.jsonl", **{name: str(folder) for name, folder in names.items()})
    inputs = Inputs(config, ModelPool(config, "cpu"), [], open_run(), no_progress)
    base = weakref.ref(CONTENDERS[Contender.BASE].load(inputs).model)
    gc.collect()
    assert base() is not None
    donor = weakref.ref(CONTENDERS[Contender.DONOR].load(inputs).model)
    gc.collect()
    assert base() is None
    assert donor() is None  # nobody holds it but the contender
