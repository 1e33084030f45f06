"""The settings of token healing and lookahead: their JSON form, and the errors."""

from __future__ import annotations

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.projection.config import BoundaryConfig


def test_a_config_comes_back_from_json_and_missing_fields_have_their_defaults():
    config = BoundaryConfig(cover_threshold=0.05, word_continuations="eta")
    assert BoundaryConfig.from_dict(config.as_dict()) == config
    assert BoundaryConfig.from_dict({"cover_threshold": 0.05}) == BoundaryConfig(cover_threshold=0.05)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"covers": 1}, "is not a boundary config"),
        ([], "is not a boundary config"),
        ({"cover_threshold": "small"}, "cover_threshold cannot be 'small'; give a value of type float"),
        ({"lookahead_tokens": 1.5}, "lookahead_tokens cannot be 1.5; give a value of type int"),
        ({"lookahead_tokens": True}, "lookahead_tokens cannot be True"),
        ({"judged_mass": -1}, "judged_mass cannot be -1; give a finite number from 0 up"),
        ({"judged_mass": float("nan")}, "judged_mass cannot be nan"),
        ({"word_continuations": "a1"}, "word_continuations cannot be 'a1'; give letters"),
        ({"word_continuations": ""}, "word_continuations cannot be ''; give letters"),
    ],
)
def test_a_wrong_setting_is_named_in_the_error(values, says):
    with pytest.raises(VocabridgeError) as error:
        BoundaryConfig.from_dict(values)
    assert says in str(error.value)
