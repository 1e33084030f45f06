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


def options_of(config: type[Any], **parsing: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command an option for each setting of a config.

    The command takes the config as its first parameter, and whatever else it has after it. A setting of several values
    is an option that may be repeated. A required setting without a default is a required option.

    Args:
        config: A frozen dataclass whose fields are made with `vocabridge.utils.settings.setting`.
        **parsing: By field, how its option is read where the type of the field does not say it: arguments of
            `typer.Option`, and `type`, another type.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()
        hints = typing.get_type_hints(config)
        options = {
            _option_name(field): (field, _option(field, hints[field.name], dict(parsing.get(field.name, {}))))
            for field in fields(config)
        }

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


def _option_name(field: Field[Any]) -> str:
    return field.metadata["option"] or field.name


def _default(field: Field[Any]) -> Any:
    if field.default is MISSING:
        return inspect.Parameter.empty
    return None if isinstance(field.default, tuple) else field.default


def _option(field: Field[Any], hint: Any, parsing: dict[str, Any]) -> Any:
    """Return the annotation of a parameter: its type and its `typer.Option`."""
    description, optional = field.metadata["description"], type(None) in typing.get_args(hint)
    plain: Any = next(kind for kind in typing.get_args(hint) if kind is not type(None)) if optional else hint
    plain = parsing.pop("type", plain)
    if typing.get_origin(plain) is tuple:
        plain, optional = list[typing.get_args(plain)[0]], True  # type: ignore[misc]
        description += " May be repeated."
    if field.metadata["default"] is not None:
        parsing["show_default"] = field.metadata["default"]
    if field.metadata["range"] is not None:
        parsing["callback"] = in_range(field.metadata["range"])
    if plain is bool:  # without its opposite
        parsing["default"] = f"--{_option_name(field).replace('_', '-')}"
    return Annotated[plain | None if optional else plain, typer.Option(help=description, **parsing)]
