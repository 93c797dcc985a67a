"""Configurations by name: a file of the user's, or one of those that come with the package."""

from __future__ import annotations

from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Final

import yaml

from anchor_lightning.errors import UserError

PACKAGE: Final = Path(__file__).resolve().parents[1]  # `configs` lie inside in a wheel, beside it in a checkout
CONFIG_FOLDER: Final = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
CONFIG_FLAGS: Final = ("--config", "-c")
MAX_ALIASES: Final = 20
LINKED: Final = frozenset({"num_classes", "class_names", "image_size"})


def shipped_configs() -> list[str]:
    """Names of the shipped configurations, as `--config` takes them."""
    return sorted(path.relative_to(CONFIG_FOLDER).as_posix() for path in CONFIG_FOLDER.rglob("*.yaml"))


def named_configs(args: list[str]) -> list[str]:
    """The arguments with every `--config NAME` that is no file here replaced by the shipped configuration of that name.

    Raises:
        UserError: There is neither a file nor a shipped configuration of a name.
    """
    result: list[str] = []
    for arg in args:
        flag, separator, value = arg.partition("=")
        if result and result[-1] in CONFIG_FLAGS:
            result.append(find_config(arg))
        elif separator and flag in CONFIG_FLAGS:
            result.append(f"{flag}={find_config(value)}")
        else:
            result.append(arg)
    return result


def find_config(name: str, option: str = "--config") -> str:
    """The path of a configuration, a file or a shipped one by name (`voc.yaml`); `option` names it in messages.

    Raises:
        UserError: Neither exists, or the file is invalid.
    """
    if Path(name).is_file():
        check_config(Path(name))
        return name
    if (CONFIG_FOLDER / name).is_file():
        return str(CONFIG_FOLDER / name)
    shipped = shipped_configs()
    nearest = get_close_matches(name, shipped, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Shipped are {', '.join(shipped)}."
    raise UserError(f"{option} {name}: no such file, and no shipped configuration. {hint}")


def check_config(path: Path) -> None:
    """Raises a `UserError` for a file without options, or with some of the data module, which jsonargparse ignores."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        what = "is empty" if content is None else f"holds a {type(content).__name__}, not options"
        raise UserError(f"{path}: {what}; it must be YAML as in `model: {{momentum: 0.9}}`")
    model = content.get("model")
    if not isinstance(model, dict | None):
        raise UserError(f"{path}: model must hold options, as in `model: {{momentum: 0.9}}`; it is {model!r}"[:300])
    for name in LINKED & set(model if isinstance(model, dict) else ()):
        raise UserError(
            f"{path}: model.{name} comes from the data module; take it out (data.class_names, data.image_size)"
        )


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a `UserError` that says where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > MAX_ALIASES:
            raise ValueError(f"more than {MAX_ALIASES} aliases, which can be made to fill all memory")
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date that cannot be, say
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None


def print_configs() -> None:
    """Lists the shipped configurations, each with what the first line of its file says."""
    names = shipped_configs()
    width = max(map(len, names))
    for name in names:
        first = (CONFIG_FOLDER / name).read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:<{width}}  {first.removeprefix('# ')}")


class _Dumper(yaml.SafeDumper):
    """Writes a member of an enumeration, as Lightning's Timer has for a default, as its value."""


_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


def dump_yaml(content: Any) -> str:
    """The text of a configuration, for jsonargparse."""
    text: str = yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text
