"""Tests of the checkpoint from which a run is resumed."""

from __future__ import annotations

import json

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.training.run_folder import CHECKPOINTS, last_checkpoint
from vocabridge.training.trainer import RUN


def test_a_checkpoint_of_a_run_with_one_more_setting_is_an_error(tmp_path):
    checkpoint = tmp_path / CHECKPOINTS / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    run = {"rank": 8, "seed": 0}
    (checkpoint / RUN).write_text(json.dumps(run))
    assert last_checkpoint(tmp_path, run) == str(checkpoint)
    (checkpoint / RUN).write_text(json.dumps(run | {"base_schedule": "sampled"}))
    with pytest.raises(VocabridgeError, match="of a run with base schedule sampled, not None; start that run"):
        last_checkpoint(tmp_path, run)
