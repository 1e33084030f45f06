"""Options are made of the fields of a config: each has the field's description and default, and makes the config."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from vocabridge.alignment import VocabridgeError
from vocabridge.cli._config_options import options_of
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.training.config import TrainingConfig
from vocabridge.utils.ranges import COUNT
from vocabridge.utils.settings import check_settings, setting


class Color(str, Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Config:
    """A config with a setting of each type."""

    name: str = field(metadata=setting("A name."))
    count: int = field(default=3, metadata=setting("A count.", COUNT))
    counts: tuple[int, ...] | None = field(default=None, metadata=setting("Counts.", COUNT, option="one", default="7"))
    colors: tuple[Color, ...] = field(default=(Color.RED,), metadata=setting("Colors.", option="color"))
    quick: bool = field(default=False, metadata=setting("Whether to hurry."))
    place: Path | None = field(default=None, metadata=setting("A place."))

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_settings(self)


@pytest.fixture
def command():
    """Runs a command that prints its config and what else it is given."""
    app = typer.Typer()

    @app.command()
    @options_of(Config, name={"metavar": "NAME"})
    def show(config: Config, more: Annotated[int, typer.Option(help="More.")] = 1) -> None:
        """Show a config."""
        typer.echo(json.dumps(asdict(config) | {"place": str(config.place), "more": more}))

    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def test_what_is_not_given_has_the_defaults_of_the_config(command):
    shown = json.loads(command("--name", "a").stdout)
    assert shown == asdict(Config("a")) | {"place": "None", "colors": ["red"], "more": 1}


def test_what_is_given_is_in_the_config_and_an_option_of_several_values_is_repeated(command):
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
        "--more",
        2,
    )
    expected = {"name": "a", "count": 4, "counts": [5, 6], "colors": ["blue"], "quick": True, "place": "x", "more": 2}
    assert json.loads(command(*given, "--more", 2).stdout) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--name"),
        (("--name", "a", "--count", 0), "0 is out of range"),
        (("--name", "a", "--one", 1, "--one", 0), "0 is out of range"),
        (("--name", "a", "--color", "green"), "green"),
    ],
)
def test_a_required_option_and_the_ranges_are_those_of_the_config(command, arguments, says):
    done = command(*arguments)
    assert done.exit_code == 2
    assert says in done.output
    with pytest.raises(VocabridgeError, match="one cannot be 0; give a whole number"):
        Config("a", counts=(1, 0))


@pytest.mark.parametrize(("name", "config"), [("eval", EvaluationConfig), ("train", TrainingConfig)])
def test_the_help_has_the_description_and_the_default_of_every_setting(run, name, config):
    text = "".join(run(name, "--help").stdout.split())
    for one in fields(config):
        option = (one.metadata["option"] or one.name).replace("_", "-")
        assert f"--{option}" in text
        assert one.metadata["description"].replace(" ", "") in text
        if one.metadata["default"] is not None:
            assert f"[default:({one.metadata['default'].replace(' ', '')})]" in text
