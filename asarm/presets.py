"""Files of settings, as --config names them: found from anywhere, refused where they mislead."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKOUT = Path(__file__).parents[1]
PRESETS = CHECKOUT / "configs"  # not there where only the package is installed


def found_preset(name: str) -> str:
    """Return what the parser is to read for a --config: presets are found from anywhere.

    Raises:
        ValueError: there is no such file, it is not UTF-8 or not YAML, or it says nothing, or
            something twice.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if ": " in name:  # settings in place of a file
            return name
        path = CHECKOUT / name
        if not path.is_file():
            where = f"; presets are in {PRESETS}" if PRESETS.is_dir() else ""
            raise ValueError(f"--config is {name}, and there is no such file{where}")
    if path.is_dir():
        raise ValueError(f"--config is {name}, a folder; expected a file of settings in YAML")
    if path.is_file():  # a pipe can be read only once
        check_settings(path)
    return str(path)


def check_settings(path: Path) -> None:
    """Refuse a file that cannot be read, that says nothing, or something twice."""
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is {error.object[error.start]:#x}"
        raise ValueError(f"{path} is not UTF-8 ({reason}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, yaml.MappingNode) or not tree.value:
        holds = "no mapping" if tree and not isinstance(tree, yaml.MappingNode) else "no settings"
        raise ValueError(f"{path} holds {holds}; expected lines such as `seed: 1`")
    check_no_key_twice(path, tree)


def check_no_key_twice(path: Path, tree: yaml.MappingNode) -> None:
    """Refuse a mapping, or one inside it, of which YAML would silently take the last of two."""
    lines: dict[str, int] = {}
    for key, value in tree.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(
                f"{path} has {key.value} twice, in lines {lines[key.value]} and {line}; leave one"
            )
        lines[key.value] = line
        if isinstance(value, yaml.MappingNode):
            check_no_key_twice(path, value)
