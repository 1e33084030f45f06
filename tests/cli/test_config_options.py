"""Options made from a config have the descriptions, defaults and ranges of its fields, and make the config."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from vocabridge.alignment import VocabridgeError
from vocabridge.cli._config_options import options_of
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.training.config import TrainingConfig
from vocabridge.utils.ranges import COUNT
from vocabridge.utils.settings import check_settings, descriptions


class Color(str, Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Config:
    """A config with a setting of each type.

    Attributes:
        name: A name.
        count: A count
            of things.
        counts: Counts.
        colors: Colors.
        quick: Whether to hurry.
        place: A place.
    """

    name: str
    count: int = 3
    counts: tuple[int, ...] | None = None
    colors: tuple[Color, ...] = (Color.RED,)
    quick: bool = False
    place: Path | None = None

    ranges: ClassVar = {"count": COUNT, "counts": COUNT}

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_settings(self)


@pytest.fixture
def command():
    """Return a function that runs a command, which prints its config and its other option."""
    app = typer.Typer()

    @app.command()
    @options_of(
        Config,
        name={"metavar": "NAME"},
        counts={"name": "one", "show_default": "7"},
        colors={"name": "color", "suffix": "Bright ones."},
    )
    def show(config: Config, other: Annotated[int, typer.Option(help="Other.")] = 1) -> None:
        """Show a config."""
        typer.echo(json.dumps(asdict(config) | {"place": str(config.place), "other": other}))

    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def test_an_option_that_is_not_given_has_the_default_of_the_config(command):
    shown = json.loads(command("--name", "a").stdout)
    assert shown == asdict(Config("a")) | {"place": "None", "colors": ["red"], "other": 1}


def test_given_values_are_in_the_config_and_an_option_with_several_values_is_repeated(command):
    given = (
        "--name",
        "a",
        "--count",
        4,
        "--one",
        5,
        "--one",
        6,
        "--color",
        "blue",
        "--quick",
        "--place",
        "x",
        "--other",
        2,
    )
    expected = {"name": "a", "count": 4, "counts": [5, 6], "colors": ["blue"], "quick": True, "place": "x", "other": 2}
    assert json.loads(command(*given).stdout) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--name"),
        (("--name", "a", "--count", 0), "0 is out of range"),
        (("--name", "a", "--one", 1, "--one", 0), "0 is out of range"),
        (("--name", "a", "--color", "green"), "green"),
    ],
)
def test_required_options_and_ranges_are_those_of_the_config(command, arguments, message):
    done = command(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    with pytest.raises(VocabridgeError, match="counts cannot be 0; give a whole number"):
        Config("a", counts=(1, 0))


def test_the_help_has_the_descriptions_with_their_suffixes(command):
    text = " ".join(command("--help").stdout.split())
    for part in ("A count of things. [default: 3]", "Counts. May be repeated. [default: (7)]"):
        assert part in text
    assert "Colors. Bright ones. May be repeated." in text


@pytest.mark.parametrize(("name", "config"), [("eval", EvaluationConfig), ("train", TrainingConfig)])
def test_every_setting_of_a_config_is_described_and_its_description_is_in_the_help(run, name, config):
    text = "".join(run(name, "--help").stdout.split())
    described = descriptions(config)
    assert [*described] == [field.name for field in fields(config)]
    assert [name for name, description in described.items() if description.replace(" ", "") not in text] == []
