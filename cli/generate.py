"""`vocabridge generate`: continue a prompt with a bridge, and print the text as it is generated."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from vocabridge.cli._errors import end_stopped
from vocabridge.cli._options import Device, DtypeOption, ValueDevice, number, text_or_stdin
from vocabridge.cli._output import Json, note_unfitted, print_json, progress
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


GREEDY = "nothing is drawn at temperature 0; give --temperature, or leave this out"


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
            help="The text to continue. By default, or for '-', every character of stdin.",
            show_default=False,
        ),
    ] = "-",
    chat: Annotated[
        bool,
        typer.Option("--chat", help="The prompt is a user's message; each model reads it in its own chat template."),
    ] = False,
    max_new_tokens: Annotated[int, number(COUNT, "Maximum number of new tokens.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be repeated.")
    ] = None,
    temperature: Annotated[
        float, number(TEMPERATURE, "Temperature of sampling; 0 takes the most likely token instead.")
    ] = 0.0,
    top_p: Annotated[
        float, number(TOP_P, "Sample from the most likely tokens that together have this probability.")
    ] = 1.0,
    seed: Annotated[int, number(SEED, "Seed of sampling.")] = 0,
    beams: Annotated[
        int, number(BEAMS, "Number of beams of a beam search; with --temperature, beams are sampled.")
    ] = 1,
    byte_level: Annotated[
        bool,
        typer.Option(
            "--byte-level",
            help="Combine the models over bytes, without projection. This is exact up to --tolerance, and slow.",
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        number(
            TOLERANCES,
            "With --byte-level: the share of each model's probability that may be left out at a byte; by default 1e-6.",
        ),
    ] = None,
    device: Device = None,
    value_device: ValueDevice = None,
    dtype: DtypeOption = Dtype.BFLOAT16,
    json: Json = False,
) -> None:
    """Continue a text with a bridge.

    The text is printed as it is generated. At the end, a line on stderr gives the speed and the share of tokens, or
    with --byte-level of bytes, that steering changed. If the weights of the bridge are not fitted, a line before it
    tells how to fit them.
    """
    from vocabridge.alignment.errors import Effect, UsageError, refuse_idle

    refuse_idle(
        Effect(
            "tolerance",
            tolerance is not None,
            byte_level,
            "only --byte-level has a tolerance; add it, or leave this out",
        ),
        Effect("top_p", top_p != 1, temperature > 0, GREEDY),
        Effect("seed", seed != 0, temperature > 0, GREEDY),
    )
    if not all(stop or ()):
        raise UsageError("stop", "is empty, so that every text would end before its first token; leave it out")
    text = text_or_stdin(prompt)
    import torch

    from vocabridge.bridge.saving import load
    from vocabridge.bridge.streaming import stream
    from vocabridge.byte_level.byte_bridge import ByteLevelBridge
    from vocabridge.byte_level.streaming import ByteLevelStream

    with progress(f"loading {bridge}"):
        arguments = {"device": device, "value_device": value_device, "dtype": getattr(torch, dtype.value)}
        loaded = load(bridge, byte_level=True, **arguments) if byte_level else load(bridge, **arguments)
    if isinstance(loaded, ByteLevelBridge) and tolerance is not None:
        loaded.set_tolerance(tolerance)
    torch.manual_seed(seed)
    begin = perf_counter()
    pieces = stream(
        loaded,
        [{"role": "user", "content": text}] if chat else text,
        max_new_tokens=max_new_tokens,
        stop=stop or (),
        temperature=temperature,
        top_p=top_p,
        beams=beams,
    )
    generated = write(pieces, quiet=json)
    seconds = perf_counter() - begin
    changed, speed = pieces.changed_rate, pieces.tokens / seconds
    note_unfitted(steering.combination for steering in loaded.steerings)
    if json:
        figures = {"tokens": pieces.tokens, "seconds": seconds, "tokens_per_second": speed, "changed_rate": changed}
        if isinstance(pieces, ByteLevelStream):
            figures |= {"bytes": pieces.bytes, "lost": pieces.lost}
        print_json({"bridge": bridge, "prompt": text, "text": generated} | figures)
    else:
        share = "nothing steers" if changed is None else f"{changed:.0%} changed by steering"
        typer.echo(f"{pieces.tokens} tokens, {speed:.1f} tokens/s, {share}", err=True)


def write(pieces: Stream | ByteLevelStream, *, quiet: bool) -> str:
    """Print a text as it is generated, unless quiet, and return it; an interrupt keeps what is printed so far."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            if not quiet:
                sys.stdout.write(piece)
                sys.stdout.flush()
    except KeyboardInterrupt as stop:
        if quiet:
            raise
        sys.stdout.write("\n")
        sys.stdout.flush()
        end_stopped(stop, "the text is incomplete")
    if not quiet:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return text
