"""Options of a command, made of the fields of a config and their descriptions."""

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

    The command takes the config as its first parameter, and whatever else it has after it. A setting of several values
    is an option that may be repeated, and a setting without a default is a required option.

    Args:
        config: A config, as `vocabridge.utils.settings` has them.
        **parsing: By field, how its option is read and shown where the field does not say it: arguments of
            `typer.Option`; `name`, another name of the option; `type`, another type; `more`, a sentence behind the
            description.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()
        hints, described = typing.get_type_hints(config), descriptions(config)
        options = {}
        for field in fields(config):
            how: dict[str, Any] = {"name": field.name, "more": "", **parsing.get(field.name, {})}
            if (range_ := config.ranges.get(field.name)) is not None:
                how["callback"] = in_range(range_)
            options[how["name"]] = field, _option(hints[field.name], described.get(field.name, ""), **how)

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            values = {field.name: given.pop(name) for name, (field, _) in options.items()}
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            command(config(**{name: value for name, value in values.items() if value not in (None, ())}), **given)

        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=_default(field))
            for name, (field, hint) in options.items()
        ]
        parameters += [other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del wrapper.__wrapped__  # whoever looks for hints finds those above
        return wrapper

    return decorate


def _default(field: Field[Any]) -> Any:
    if field.default is MISSING:
        return inspect.Parameter.empty
    return None if isinstance(field.default, tuple) else field.default


def _option(hint: Any, description: str, *, name: str, more: str, **how: Any) -> Any:
    """Return the annotation of a parameter: its type and its `typer.Option`."""
    optional = type(None) in typing.get_args(hint)
    plain: Any = next(kind for kind in typing.get_args(hint) if kind is not type(None)) if optional else hint
    plain = how.pop("type", plain)
    if typing.get_origin(plain) is tuple:
        plain, optional = list[typing.get_args(plain)[0]], True  # type: ignore[misc]
        more += " May be repeated."
    if plain is bool:  # without its opposite
        how["default"] = f"--{name.replace('_', '-')}"
    option = typer.Option(help=" ".join(f"{description} {more}".split()), **how)
    return Annotated[plain | None if optional else plain, option]
