"""A number on the command line that is out of its range ends the command at once, with a sentence and status 2."""

import math
import typing

import pytest
import typer

from vocabridge.cli._app import app
from vocabridge.cli.cache import app as cache
from vocabridge.cli.train import texts_or_share


def number_options():
    """Return every option of every command that is a number, and whether it is a whole number."""
    options = {}
    for command in (*app.registered_commands, *cache.registered_commands):
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            types = typing.get_args(hint)[:1]  # none without an annotation of typer
            members = {member for type_ in types for member in (typing.get_args(type_) or (type_,))}
            kinds = {kind for member in members for kind in (typing.get_args(member) or (member,))}
            if kinds & {int, float}:
                (option,) = hint.__metadata__
                options[f"{command.callback.__name__} {name}"] = option, float not in kinds
    return options


NUMBERS = number_options()
FAR = [10**40, -(10**40)]
NOT_FINITE = [math.nan, math.inf, -math.inf, 1e30, -1e30]


def test_every_number_of_every_command_is_checked():
    assert {"generate temperature", "train learning_rate", "score positions", "pairs jobs"} < set(NUMBERS)
    assert len(NUMBERS) >= 26
    for name, (option, is_whole) in NUMBERS.items():
        for value in FAR if is_whole else NOT_FINITE:
            given = [value] if name == "evaluate alpha" else value
            with pytest.raises(typer.BadParameter, match="give "):
                option.callback(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_the_error_states_the_range(run, text, arguments, message):
    assert text.name == "text.txt"
    done = run(*arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--learning-rate", "nan", "nan is out of range; give a number from 1e-12 to 1."),
        ("--learning-rate", "-1", "-1.0 is out of range"),
        ("--learning-rate", "inf", "inf is out of range"),
        ("--regularizer-weight", "inf", "give a number from 0 to 1000000."),
        ("--seed", "4294967296", "give a whole number from 0 to 4294967295."),
        ("--rank", "100000000", "give a whole number from 1 to 65536."),
        ("--validation", "1.5", "1.5 is not a share of the data; give a number above 0 to below 1, or other texts"),
        ("--validation", "nan", "nan is not a share of the data"),
    ],
)
def test_training_checks_its_numbers_before_it_reads_anything(run, tmp_path, option, value, message):
    (tmp_path / "data.jsonl").write_text("not read")
    done = run("train", "data.jsonl", "-o", "values", "--source", "nowhere", option, value)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "values").exists()


def test_a_valid_share_is_a_number():
    assert texts_or_share("0.1") == 0.1
    assert texts_or_share(None) is None
    with pytest.raises(typer.BadParameter):
        texts_or_share("0")
