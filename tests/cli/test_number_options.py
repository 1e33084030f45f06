"""Every number on the command line is in its range, or the command ends at once with status 2 and a sentence."""

import math
import typing

import pytest
import typer

from vocabridge.cli._app import app
from vocabridge.cli.cache import app as cache
from vocabridge.cli.train import texts_or_share


def number_options():
    """The check of every option of every command that is a number, and whether it is a whole one."""
    found = {}
    for command in (*app.registered_commands, *cache.registered_commands):
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            kinds = [set(typing.get_args(one)) or {one} for one in typing.get_args(hint)[:1]]
            kinds = {kind for several in kinds for one in several for kind in (typing.get_args(one) or (one,))}
            if kinds & {int, float}:
                (option,) = hint.__metadata__
                found[f"{command.callback.__name__} {name}"] = option, float not in kinds
    return found


NUMBERS = number_options()
FAR = [10**40, -(10**40)]
NOT_FINITE = [math.nan, math.inf, -math.inf, 1e30, -1e30]


def test_every_number_of_every_command_is_checked():
    assert {"generate temperature", "train learning_rate", "score positions", "pairs jobs"} < set(NUMBERS)
    assert len(NUMBERS) >= 26
    for name, (option, whole) in NUMBERS.items():
        for value in FAR if whole else NOT_FINITE:
            given = [value] if name == "evaluate alpha" else value
            with pytest.raises(typer.BadParameter, match="give "):
                option.callback(given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("generate . --temperature 1e-320", "1e-320 is out of range; give 0, or a number from 0.001 to 1000."),
        ("generate . --temperature -1", "-1.0 is out of range"),
        ("generate . --top-p 0", "0.0 is out of range; give a number above 0 to 1."),
        ("generate . --seed 18446744073709551616", "give a whole number from 0 to 4294967295."),
        ("generate . --beams 100000", "100000 is out of range; give a whole number from 1 to 128."),
        ("generate . --byte-level --tolerance 1", "1.0 is out of range; give a number from 0 to below 1."),
        ("align a b --jobs 100000", "give a whole number from 1 to 1024."),
        (
            "bridge -o b --base x --value y --strength 1:nan:5",
            "cannot go from 1.0 to nan; give finite numbers from -1000 to 1000",
        ),
        ("bridge -o b --base x --value y --plausibility-threshold 2", "give a number from 0 to 1."),
        ("eval --base x --value y --data text.txt --alpha 1e300", "give a number from -1000 to 1000"),
    ],
)
def test_the_sentence_says_which_numbers_there_are(run, text, arguments, says):
    assert text.name == "text.txt"
    done = run(*arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--learning-rate", "nan", "nan is out of range; give a number from 1e-12 to 1."),
        ("--learning-rate", "-1", "-1.0 is out of range"),
        ("--learning-rate", "inf", "inf is out of range"),
        ("--regularizer-weight", "inf", "give a number from 0 to 1000000."),
        ("--seed", "4294967296", "give a whole number from 0 to 4294967295."),
        ("--rank", "100000000", "give a whole number from 1 to 65536."),
        ("--validation", "1.5", "1.5 is no share of the data; give a number above 0 to below 1, or other texts"),
        ("--validation", "nan", "nan is no share of the data"),
    ],
)
def test_training_says_so_before_it_reads_anything(run, tmp_path, option, value, says):
    (tmp_path / "data.jsonl").write_text("not read")
    done = run("train", "data.jsonl", "-o", "values", "--source", "nowhere", option, value)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert not (tmp_path / "values").exists()


def test_a_share_that_is_one_stays_a_number():
    assert texts_or_share("0.1") == 0.1
    assert texts_or_share(None) is None
    with pytest.raises(typer.BadParameter):
        texts_or_share("0")
