"""The store of a run: records stay, and a different config, another process and a damaged record are errors."""

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
from vocabridge.evaluation.run_store import RunStore, Workers
from vocabridge.options import Contender
from vocabridge.utils.progress import no_progress

CONFIG = {"data": "abc", "limit": None, "policies": ["heal"]}


@pytest.fixture
def open_run(tmp_path):
    def open_run(config=CONFIG):
        return RunStore(tmp_path / "run", config, Workers())

    return open_run


def test_records_are_read_again_and_the_first_of_a_key_counts(open_run, tmp_path):
    run = open_run()
    run.append("base", "reading", {0: {"bits": [0.1]}, 2: {"bits": [1 / 3]}})
    run.append("base", "reading", {0: {"bits": [9.0]}})
    assert run.setting("bridge", lambda: {"threshold": 0.4})["threshold"] == 0.4
    run.close()
    reopened = open_run()
    assert reopened.get("base", "reading", 0)["bits"] == [0.1]
    assert reopened.get("base", "reading", 2)["bits"] == [1 / 3]
    assert reopened.get("base", "reading", 1) is reopened.get("base", "writing", 0) is None
    assert reopened.setting("bridge", lambda: pytest.fail("the setting is recorded"))["threshold"] == 0.4
    assert reopened.pending("base", "reading", [[0], [1, 2], [2]]) == [[1, 2]]


def test_a_partial_record_is_dropped(open_run, tmp_path):
    run = open_run()
    run.append("base", "reading", {0: {"bits": [1.0]}})
    run.close()
    file = tmp_path / "run" / "records-0.jsonl"
    complete = file.read_bytes()
    file.write_bytes(complete + complete[:-3])
    reopened = open_run()
    assert file.read_bytes() == complete
    reopened.append("base", "reading", {1: {"bits": [2.0]}})
    assert len(file.read_text().splitlines()) == 2


def test_a_config_may_get_further_entries_but_not_other_values(open_run, tmp_path):
    open_run().close()
    open_run(CONFIG | {"ceiling": "def"}).close()
    open_run().close()
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["config"] == CONFIG | {"ceiling": "def"}
    for name, value in (("ceiling", "xyz"), ("policies", ["skip"]), ("limit", 3)):
        with pytest.raises(VocabridgeError, match=f"another {name}"):
            open_run(CONFIG | {name: value})


def test_only_one_evaluation_at_a_time_uses_a_folder(open_run):
    run = open_run()
    with pytest.raises(VocabridgeError, match="at work in"):
        open_run()
    run.close()
    open_run().close()


def test_an_error_names_the_line_that_is_not_a_record(open_run, tmp_path):
    open_run().close()
    (tmp_path / "run" / "records-0.jsonl").write_text("{}\n")
    with pytest.raises(VocabridgeError, match="line 1, is not a record"):
        open_run()


def with_flipped_bit(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_of_a_record_is_an_error(open_run, tmp_path):
    run = open_run()
    run.append("base", "reading", {item: {"bits": [item / 7, 1e-9 * item], "text": "café 12"} for item in range(20)})
    run.close()
    file = tmp_path / "run" / "records-0.jsonl"
    intact = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * (len(intact) - 1)), 60):
        file.write_bytes(with_flipped_bit(intact, bit))
        with pytest.raises(VocabridgeError, match=r"line \d+, is not a record \(its checksum differs, .*remove"):
            open_run()
    # Without its last line break, the last record is a partial one.
    file.write_bytes(with_flipped_bit(intact, 8 * len(intact) - 1))
    reopened = open_run()
    assert (reopened.get("base", "reading", 18)["bits"][0], reopened.get("base", "reading", 19)) == (18 / 7, None)


def test_a_flipped_bit_of_the_config_is_an_error(open_run, tmp_path):
    open_run().close()
    file = tmp_path / "run" / "run.json"
    intact = file.read_bytes()
    positions = [position for position, byte in enumerate(intact) if not chr(byte).isspace()]
    for position in random.Random(0).sample(positions, 60):
        file.write_bytes(with_flipped_bit(intact, 8 * position + position % 8))
        with pytest.raises(VocabridgeError, match=r"run\.json is (altered or damaged|damaged|of format)"):
            open_run({})


def test_a_run_without_a_format_is_refused(open_run, tmp_path):
    open_run().close()
    (tmp_path / "run" / "run.json").write_text(json.dumps(CONFIG))
    with pytest.raises(VocabridgeError, match=r"run\.json is of format None"):
        open_run()


def test_models_that_the_next_contender_does_not_need_are_released(open_run, model_folders):
    names = {"base": model_folders.target, "value": model_folders.tuned, "untuned": model_folders.source}
    config = EvaluationConfig("test.jsonl", **{name: str(folder) for name, folder in names.items()})
    inputs = Inputs(config, ModelPool(config, "cpu"), [], open_run(), no_progress)
    base = weakref.ref(CONTENDERS[Contender.BASE].load(inputs).model)
    gc.collect()
    assert base() is not None
    donor = weakref.ref(CONTENDERS[Contender.DONOR].load(inputs).model)
    gc.collect()
    assert base() is None
    assert donor() is None  # only the contender holds it
