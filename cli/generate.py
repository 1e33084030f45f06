"""`vocabridge generate`: a prompt to a bridge's answer, as it comes."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from vocabridge.cli._errors import end_stopped
from vocabridge.cli._options import Device, DtypeOption, ValueDevice, number, text_or_stdin
from vocabridge.cli._output import Json, print_json, progress, say_unfitted
from vocabridge.options import Dtype
from vocabridge.utils.ranges import BEAMS, COUNT, SEED, TEMPERATURE, TOLERANCES, TOP_P

if TYPE_CHECKING:
    from vocabridge.bridge.streaming import Stream
    from vocabridge.byte_level.streaming import ByteLevelStream

EXAMPLES = """\b
Examples:
  vocabridge generate my-bridge "Question: How much is 7 times 24? Answer:"
  vocabridge generate my-bridge --chat "How much is 7 times 24?" --temperature 0.7 --seed 1
  vocabridge generate my-bridge --byte-level "The capital of Fra" --max-new-tokens 8
  vocabridge generate my-bridge --stop Question: --device cuda:0 --value-device cpu < prompt.txt
"""


DRAWN = "nothing is drawn at temperature 0; give --temperature, or leave this out"


def generate(  # Long because each option is a parameter, with its help
    bridge: Annotated[
        Path,
        typer.Argument(
            metavar="BRIDGE",
            exists=True,
            file_okay=False,
            help="Folder that `vocabridge bridge` wrote.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="[PROMPT]",
            help="The text to continue. '-', or none: what is on stdin, every character of it.",
            show_default=False,
        ),
    ] = "-",
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message; each model reads it in its own template.")
    ] = False,
    max_new_tokens: Annotated[int, number(COUNT, "Stop after so many tokens.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be repeated.")
    ] = None,
    temperature: Annotated[float, number(TEMPERATURE, "0 takes the likeliest token, above it is drawn.")] = 0.0,
    top_p: Annotated[float, number(TOP_P, "Draw from the likeliest tokens that have this probability together.")] = 1.0,
    seed: Annotated[int, number(SEED, "Of what is drawn.")] = 0,
    beams: Annotated[
        int, number(BEAMS, "Look for the likeliest text with so many beams; with --temperature, they are drawn.")
    ] = 1,
    byte_level: Annotated[
        bool, typer.Option("--byte-level", help="Combine the models byte by byte, without projection: exact, and slow.")
    ] = False,
    tolerance: Annotated[
        float | None,
        number(
            TOLERANCES,
            "With --byte-level: the share of each model's mass that may be left out at a byte; 1e-6 if not set.",
        ),
    ] = None,
    device: Device = None,
    value_device: ValueDevice = None,
    dtype: DtypeOption = Dtype.BFLOAT16,
    json: Json = False,
) -> None:
    """Continue a text with a bridged model.

    The text appears as it is produced; a line on stderr says at the end how fast that was, and what share of the
    tokens steering changed; with --byte-level, what share of the bytes. Where no weights were fitted, a line before it
    says how to fit them.
    """
    from vocabridge.alignment.errors import Effect, UsageError, refuse_idle

    refuse_idle(
        Effect(
            "tolerance",
            tolerance is not None,
            byte_level,
            "only --byte-level has a tolerance; add it, or leave this out",
        ),
        Effect("top_p", top_p != 1, temperature > 0, DRAWN),
        Effect("seed", seed != 0, temperature > 0, DRAWN),
    )
    if not all(stop or ()):
        raise UsageError("stop", "is empty, which would end every text before it begins; leave it out")
    text = text_or_stdin(prompt)
    import torch

    from vocabridge.bridge.saving import load
    from vocabridge.bridge.streaming import stream
    from vocabridge.byte_level.byte_bridge import ByteLevelBridge
    from vocabridge.byte_level.streaming import ByteLevelStream

    with progress(f"loading {bridge}"):
        places = {"device": device, "value_device": value_device, "dtype": getattr(torch, dtype.value)}
        loaded = load(bridge, byte_level=True, **places) if byte_level else load(bridge, **places)
    if isinstance(loaded, ByteLevelBridge) and tolerance is not None:
        loaded.set_tolerance(tolerance)
    torch.manual_seed(seed)
    begin = perf_counter()
    writing = stream(
        loaded,
        [{"role": "user", "content": text}] if chat else text,
        max_new_tokens=max_new_tokens,
        stop=stop or (),
        temperature=temperature,
        top_p=top_p,
        beams=beams,
    )
    written = write(writing, quiet=json)
    seconds = perf_counter() - begin
    changed, speed = writing.changed_rate, writing.tokens / seconds
    say_unfitted(one.combination for one in loaded.steerings)
    if json:
        figures = {"tokens": writing.tokens, "seconds": seconds, "tokens_per_second": speed, "changed_rate": changed}
        if isinstance(writing, ByteLevelStream):
            figures |= {"bytes": writing.bytes, "lost": writing.lost}
        print_json({"bridge": bridge, "prompt": text, "text": written} | figures)
    else:
        share = "nothing steers" if changed is None else f"{changed:.0%} changed by steering"
        typer.echo(f"{writing.tokens} tokens, {speed:.1f} tokens/s, {share}", err=True)


def write(writing: Stream | ByteLevelStream, *, quiet: bool) -> str:
    """Print a text as it comes, unless quiet; all of it. What has come when the user interrupts stays there."""
    pieces = []
    try:
        for piece in writing:
            pieces.append(piece)
            if not quiet:
                sys.stdout.write(piece)
                sys.stdout.flush()
    except KeyboardInterrupt as stop:
        if quiet:
            raise
        sys.stdout.write("\n")
        sys.stdout.flush()
        end_stopped(stop, "the text ends where it had come to")
    if not quiet:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(pieces)
