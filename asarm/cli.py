"""What every script does around its work: settings from files and flags, errors in one line."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, TypeVar

from jsonargparse import ArgumentParser, auto_cli

from asarm.presets import found_preset

Config = TypeVar("Config")
USER_ERROR, INTERRUPTED, UNREAD = 2, 130, 141  # the last two as shells say SIGINT and SIGPIPE
STDOUT = 1  # its file descriptor
PATIENCE = 5  # seconds that the first of several processes has to report for all


class Parser(ArgumentParser):
    """A parser that reports what it refuses in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        refuse(f"{brief(message)} (--help explains every setting)")


def launch(
    main: Callable[[Config], None],
    config_class: type[Config],
    *,
    default_preset: Path | None = None,
    instead: Sequence[str] = (),
) -> None:
    """Run a script's `main` on the settings of the command line and of --config files.

    A flag wins over a file wherever it is. The settings of `default_preset` hold unless
    --config, or a flag of `instead`, is given.

    What the user can put right (ValueError, OSError) ends in one line and exit code 2, Ctrl-C in
    exit code 130.
    """

    def parse_and_run(config_class: type[Config]) -> None:
        arguments = friendly(sys.argv[1:], config_class)
        files, flags = split_files(arguments)
        if default_preset and not files and given_flags(flags).isdisjoint(instead):
            files = [str(default_preset)]
        arguments = [*(f"--config={found_preset(file)}" for file in files), *flags]
        main(auto_cli(config_class, args=arguments, as_positional=False, parser_class=Parser))

    run_to_end(parse_and_run, config_class)


def split_files(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into the files that --config names, and all others."""
    files, others = [], []
    rest = iter(arguments)
    for argument in rest:
        flag, _, value = argument.partition("=")
        if flag != "--config":
            others.append(argument)
            continue
        files.append(value or next(rest, ""))
        if not files[-1]:
            raise ValueError("--config has no value; expected a file of settings in YAML")
    return files, others


def given_flags(arguments: Sequence[str]) -> set[str]:
    """Return the settings that have a flag among the arguments, by their names."""
    return {re.split(r"[=.+]", a.removeprefix("--"))[0] for a in arguments if a.startswith("--")}


def run_to_end(
    main: Callable[[Config], None],
    config: Config,
    *,
    when_stopped: str = "stopped; the same command goes on from here",
) -> None:
    """Call `main`, and end in one line where the user can put right what is wrong, or stops it.

    Characters that the terminal's encoding lacks are printed as escapes. Where whoever reads what
    is printed has read enough, as in `| head -1`, the end is silent.
    """
    print_everything()
    try:
        main(config)
        print(end="", flush=True)  # now, for at the interpreter's end it would be too late to say
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # what is still to be flushed
            sys.exit(UNREAD)
        refuse(str(error))
    except KeyboardInterrupt:
        print(f"\n{when_stopped}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def print_everything() -> None:
    """Print characters as escapes where the terminal's encoding lacks them."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def nobody_reads() -> bool:
    """Return whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(STDOUT, 0)  # errors are reported whatever is registered
    return bool(poll.poll(0))


def refuse(message: str) -> NoReturn:
    """End the script with exit code 2 and the first line of `message`."""
    let_first_process_speak(USER_ERROR)
    print(f"error: {(message.strip() or 'unknown').splitlines()[0]}", file=sys.stderr)
    sys.exit(USER_ERROR)


def let_first_process_speak(exit_code: int) -> None:
    """Make all processes but the first wait before they say why the run ends.

    The first one mostly ends for the same reason: then their launcher ends the others (SIGTERM),
    which go without a word.
    """
    if int(os.environ.get("RANK", 0)):
        wait_to_be_ended(exit_code, PATIENCE)


def wait_to_be_ended(exit_code: int, patience: float) -> None:
    """Give the launcher the time to end this process, silently, because another one ended."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(exit_code))
    time.sleep(patience)


def friendly(arguments: Sequence[str], config_class: type) -> list[str]:
    """Return arguments as jsonargparse wants them.

    Lists may be written `--methods assd,onepass` or `--methods assd onepass`, a switch without its
    `true`, and a number below zero as any other.
    """
    types = {f"--{f.name}": getattr(f.type, "__name__", f.type) for f in fields(config_class)}
    result: list[str] = []
    rest = list(arguments)
    while rest:
        flag, has_value, value = rest.pop(0).partition("=")
        kind = str(types.get(flag, ""))
        values = [value] if has_value else []
        while kind.startswith(("list", "bool")) and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if kind.startswith("list") and not any(values):
            raise ValueError(f"{flag} has no value; expected some, or [] for none")
        if kind.startswith("list") and not values[0].startswith("["):
            items = [item.strip() for value in values for item in value.split(",")]
            values = [f"[{','.join(filter(None, items))}]"]
        elif kind == "bool" and not values:
            values = ["true"]
        elif not has_value and rest and re.match(r"-\.?\d", rest[0]):
            values = [rest.pop(0)]  # which the parser would take for a flag
        if values or kind.startswith(("list", "bool")):
            result.append(f"{flag}={' '.join(values)}")
        else:
            result.append(flag + has_value)
    return result


def brief(message: str) -> str:
    """Put jsonargparse's message into one line."""
    message = message.removeprefix('Parser key "config": ')
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Given value|Got value): *(.*)", message)
    if key and value:
        types = r"(?<=<class ')[\w.]+|(?<=Literal\[)'[^]]*'"
        expected = re.findall(types, message.partition("Given value type")[0])
        kinds = " or ".join(dict.fromkeys("null" if e == "NoneType" else e for e in expected))
        return f"{key[1]} is {value[1].strip()!r}; expected {kinds or 'another value'}"
    return " ".join(message.split())
