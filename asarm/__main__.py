"""The command line: `python -m asarm infill "The ship left ___ at dawn."`, and others."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from asarm.cli import Parser, run_to_end
from asarm.command.config import AnimateSettings, InfillSettings, positionals


def infill(settings: InfillSettings) -> None:
    from asarm.command.infill import run  # torch loads here, so that --help is instant

    run(settings)


def animate(settings: AnimateSettings) -> None:
    from asarm.command.animate import run

    run(settings)


FLAG = re.compile(r"-(-[\w-]+(=|\Z)|h\Z)")
COMMANDS: dict[str, tuple[Callable[[Any], None], type]] = {
    "infill": (infill, InfillSettings),
    "animate": (animate, AnimateSettings),
}


def new_parser() -> Parser:
    """Make a parser with a command for each of `COMMANDS`; docstrings of settings are its help."""
    parser = Parser(
        prog="python -m asarm",
        description="Any-subset autoregressive language models on the command line.",
    )
    commands = parser.add_subcommands(required=True)
    for name, (_, settings) in COMMANDS.items():
        title, _, details = (settings.__doc__ or "").partition("\n")
        more = " ".join(details.partition("Args:")[0].split())
        command = Parser(description=f"{title} {more}".strip())
        own = positionals(settings)
        for f in own:
            command.add_argument(f.name, type=str, **f.metadata)
        command.add_class_arguments(settings, skip={f.name for f in own})
        commands.add_subcommand(name, command, help=title)
    return parser


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """Return the command, and its settings."""
    found = new_parser().parse_args(arranged(arguments)).as_dict()
    name = found["subcommand"]
    return name, COMMANDS[name][1](**found[name])


def arranged(arguments: Sequence[str]) -> list[str]:
    """Move texts to the front, wherever they were, and join every flag with its value.

    A switch that is alone is `true`. All that follows `--` are texts.
    """
    kinds = {f"--{f.name}": f.type for _, s in COMMANDS.values() for f in fields(s)}
    texts: list[str] = []
    flags: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*texts[:1], *flags, "--", *texts[1:], *rest]
        if not FLAG.match(argument):
            texts.append(argument)
        elif argument not in kinds or (kinds[argument] != "bool" and not rest):
            flags.append(argument)
        elif kinds[argument] != "bool" or rest[:1] in (["true"], ["false"]):
            flags.append(f"{argument}={rest.pop(0)}")
        else:
            flags.append(f"{argument}=true")
    return [*texts, *flags]


def main() -> None:
    if not sys.argv[1:]:
        new_parser().print_help()
        return
    name, settings = parse(sys.argv[1:])
    run_to_end(COMMANDS[name][0], settings, when_stopped="stopped")


if __name__ == "__main__":
    main()
