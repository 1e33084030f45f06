"""Command-line options made from the fields of a config dataclass and their descriptions."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any

import typer

from vocabridge.cli._options import in_range
from vocabridge.utils.settings import descriptions


def options_of(config: type[Any], **parsing: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command an option for each setting of a config.

    The command's first parameter is the config; its other parameters stay options and arguments. A setting with several
    values becomes an option that may be repeated, and a setting without a default becomes a required option.

    Args:
        config: A config class, as described in `vocabridge.utils.settings`.
        **parsing: For each field that needs them, arguments of `typer.Option`, and besides: `name`, another name of the
            option; `type`, another type; `suffix`, a sentence to add to the description.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *other_parameters = inspect.signature(command, eval_str=True).parameters.values()
        hints, help_texts = typing.get_type_hints(config), descriptions(config)
        options = {}
        for field in fields(config):
            arguments: dict[str, Any] = {"name": field.name, "suffix": "", **parsing.get(field.name, {})}
            if (range_ := config.ranges.get(field.name)) is not None:
                arguments["callback"] = in_range(range_)
            option = _option(hints[field.name], help_texts.get(field.name, ""), **arguments)
            options[arguments["name"]] = field, option

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            values = {field.name: given.pop(name) for name, (field, _) in options.items()}
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            command(config(**{name: value for name, value in values.items() if value not in (None, ())}), **given)

        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=_default(field))
            for name, (field, hint) in options.items()
        ]
        parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in other_parameters]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del wrapper.__wrapped__  # so that typer reads the signature and annotations above
        return wrapper

    return decorate


def _default(field: Field[Any]) -> Any:
    if field.default is MISSING:
        return inspect.Parameter.empty
    return None if isinstance(field.default, tuple) else field.default


def _option(hint: Any, description: str, *, name: str, suffix: str, **arguments: Any) -> Any:
    """Return the annotation of a parameter: its type and its `typer.Option`."""
    optional = type(None) in typing.get_args(hint)
    type_: Any = next(member for member in typing.get_args(hint) if member is not type(None)) if optional else hint
    type_ = arguments.pop("type", type_)
    if typing.get_origin(type_) is tuple:
        type_, optional = list[typing.get_args(type_)[0]], True  # type: ignore[misc]
        suffix += " May be repeated."
    if type_ is bool:
        arguments["default"] = f"--{name.replace('_', '-')}"  # without --no-NAME
    option = typer.Option(help=" ".join(f"{description} {suffix}".split()), **arguments)
    return Annotated[type_ | None if optional else type_, option]
