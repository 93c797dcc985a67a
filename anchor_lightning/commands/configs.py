"""Configurations by name: a file of the user's, or one of those that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parents[1]
CONFIG_FOLDER: Final = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"
"""Where the shipped configurations lie: inside the package in a wheel, beside it in a checkout."""
CONFIG_FLAGS: Final = ("--config", "-c")
MOST_ALIASES: Final = 20
LINKED: Final = frozenset({"num_classes", "class_names", "image_size"})


def named_configs(words: list[str]) -> list[str]:
    """The words with every `--config NAME` that is no file here replaced by the shipped configuration of that name.

    Raises:
        SystemExit: There is neither a file nor a shipped configuration of a name; lists the shipped ones.
    """
    result: list[str] = []
    for word in words:
        flag, separator, value = word.partition("=")
        if result and result[-1] in CONFIG_FLAGS:
            result.append(find_config(word))
        elif separator and flag in CONFIG_FLAGS:
            result.append(f"{flag}={find_config(value)}")
        else:
            result.append(word)
    return result


def find_config(name: str, option: str = "--config") -> str:
    """The path of a configuration: a file as given, or a shipped one by its name (`voc.yaml`, `init/uniform.yaml`).

    Args:
        name: The file, or the name.
        option: What the user gave it as, for the messages.

    Raises:
        SystemExit: Neither exists.
    """
    if Path(name).is_file():
        refuse_linked(Path(name))
        return name
    if (CONFIG_FOLDER / name).is_file():
        return str(CONFIG_FOLDER / name)
    shipped = sorted(str(path.relative_to(CONFIG_FOLDER)) for path in CONFIG_FOLDER.rglob("*.yaml"))
    raise SystemExit(f"{option} {name}: no such file, and no shipped configuration; shipped are {', '.join(shipped)}")


def refuse_linked(path: Path) -> None:
    """Refuses a configuration that sets what comes from the data module; jsonargparse would ignore it without a word.

    Raises:
        SystemExit: It does.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        what = "is empty" if content is None else f"holds a {type(content).__name__}, not options"
        raise SystemExit(f"{path}: {what}; it must be YAML as in `model: {{width: 0.5}}`")
    model = content.get("model")
    if not isinstance(model, dict | None):
        raise SystemExit(f"{path}: model must hold options, as in `model: {{width: 0.5}}`; it is {model!r}"[:300])
    for name in LINKED & set(model if isinstance(model, dict) else ()):
        raise SystemExit(
            f"{path}: model.{name} comes from the data module; take it out (data.class_names, data.image_size)"
        )


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        SystemExit: It is not text, or not YAML; says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > MOST_ALIASES:
            raise ValueError(f"more than {MOST_ALIASES} aliases, which can be made to fill all memory")
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date that cannot be, say
        raise SystemExit(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
