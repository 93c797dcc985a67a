"""What the command line says of an error: one message where the user can do something about it, else the traceback."""

from __future__ import annotations

import errno
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any, Final, NoReturn

from jsonargparse import ArgumentParser

from anchor_lightning.commands.configs import LINKED
from anchor_lightning.errors import UserError

PROGRAM: Final = "anchor_lightning"  # of `python -m`; errors begin with it
COMMAND: Final = "anchor-lightning"  # of a shell
_FORBIDDEN: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
UNWRITABLE: Final = (*_FORBIDDEN, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOENT)
MEMORY_OPTIONS: Final = ("batch_size", "image_size", "num_workers")
NO_MEMORY: Final = ("can't allocate memory", "Insufficient memory", "out of memory", "Cannot allocate memory")

_YOLO: Final = ("width", "bn_without_shift", "bn_scale_init", "prior_images", "backbone_weights", "weights", "compile")
FORMER_OPTIONS: Final = {f"model.{name}": f"model.detector.{name}" for name in _YOLO}
FORMER_OPTIONS["model.weights_backbone"] = "model.detector.backbone_weights"
for _name in ("monitor", "mode"):
    FORMER_OPTIONS[f"checkpoint.{_name}"] = f"best_checkpoint.{_name}; without either the best val/map_50 is kept"
ALSO_CALLED: Final = (  # options that other commands have by another name
    ("num", "model.anchors.num"),
    ("image_size", "data.image_size"),
    ("shapes", "init", "model.anchors.init"),
    ("to", "format"),
    ("seed", "seed_everything"),
    ("output", "trainer.default_root_dir"),
)
FORMER_DETECTORS: Final = {  # values of `model.detector` before it became a class
    "yolov2": "YOLOv2",
    "faster_rcnn_r50_c4": "FasterRCNN --model.detector.fpn false",
    "faster_rcnn_r50_fpn": "FasterRCNN",
    "faster_rcnn_small_c4": "FasterRCNN --model.detector.backbone small --model.detector.fpn false",
    "faster_rcnn_small_fpn": "FasterRCNN --model.detector.backbone small",
    "retinanet_r50_fpn": "RetinaNet",
    "retinanet_small_fpn": "RetinaNet --model.detector.backbone small",
    "ssd300": "SSD",
    "ssd_small": "SSD --model.detector.backbone small",
}


class ShortErrors:
    """Mixin for parsers: an error in three lines: what is wrong, the nearest valid name, where help is."""

    all_options = "--help"  # the word that shows every option

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2."""
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        if not parser.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        lines = explain(message, parser)
        sys.stderr.write("\n".join([f"{PROGRAM}: error: {lines[0]}", *lines[1:]]) + "\n")
        raise SystemExit(2)


class CommandParser(ShortErrors, ArgumentParser):
    """Parser of a sub-command of this project."""


def explain(message: str, parser: ArgumentParser) -> list[str]:
    """What jsonargparse says of an error, in two or three lines, by the options that `parser` knows."""
    where = f"Options: {parser.prog.replace(' [options]', '')} {getattr(parser, 'all_options', '--help')}"
    kind = re.search(r"class_path[= ']+([\w.]+)'", message)
    owner = kind and _class_name(kind[1])
    option = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if kind is not None:
        where += f", or --{option}.help {owner}"
    if (name := _unknown_option(message)) is not None:
        former = FORMER_OPTIONS.get(name)
        of = f" of {owner}" if owner else ""
        lines = [f"--{name} is now --{former}" if former else f"--{name} is not an option{of}"]
        known = [other for other in known_options(parser, option, kind and kind[1]) if not name.startswith(f"{other}.")]
        same = [other for names in ALSO_CALLED if name in names for other in names if other in known]
        last = {other.rpartition(".")[2]: other for other in known}  # `--num` for `--model.anchors.num`
        nearest = same or get_close_matches(name, known, n=1) or [last[n] for n in get_close_matches(name, last, n=1)]
        return [*lines, *(f"Did you mean --{match}?" for match in nearest[:1] if former is None), where]
    nested = re.search(r"NestedArg\(key='([\w.]+)'", message)
    if nested and not option.endswith(nested[1]):  # an option of a class where no class is known
        path = "--data FOLDER instead, " if option == "data" else ""
        asked = f"give {path}--{option} CLASS before it, or a --config that names one"
        return [f"--{option}.{nested[1]}: no class is chosen for {option}; {asked}", where]
    if required := re.search(r"arguments are required: (.*)", message):
        return [f"{', '.join(f'--{name}' for name in required[1].split(', '))} is not given", where]
    if missing := re.search(r"Expected a dot import path string: (\S+)", message):
        return _unknown_class(option, missing[1], where)
    # Of nested messages the innermost counts: what follows the last key, up to the value that it was given.
    inner = re.split(r'Parser key "[^"]+":', message)[-1]
    if value := re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value|$)", inner, re.MULTILINE):
        given = value[1]
        types = re.findall(r"Expected an? (?:<class '(?:[\w.]+\.)?(\w+)'>|typing\.(\w+\[.*?\]))", inner[: value.end()])
        kinds = dict.fromkeys(kind for plain, special in types for kind in _kinds(plain or special))
        if option and kinds:
            return [f"--{option}: expected {' or '.join(kinds)}, got {given}", where]
    text = " ".join(message.split())
    return [f"--{option}: {text.partition(': ')[2]}"[:500] if option else text[:500], where]


def _kinds(annotation: str) -> list[str]:
    """What a type of Python is to a user: the words of a `Literal`, null for None."""
    if annotation.startswith("Literal["):
        return [word.strip("'\" ") for word in annotation.removeprefix("Literal[").rstrip("]").split(",")]
    return ["null" if annotation == "NoneType" else annotation]


def _class_name(class_path: str) -> str:
    """The name of a class as users give it."""
    from anchor_lightning.data import module_name  # seconds, for which only a mistake has to wait

    return module_name(class_path.rpartition(".")[2])


def _unknown_option(message: str) -> str | None:
    """The name of an option that no parser knows, with dots; None if the message is about something else."""
    if found := re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
        return found[1].lstrip("-").partition("=")[0]
    if found := re.search(r"does not accept option '([^']+)'", message):
        return found[1]
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        return ".".join([*re.findall(r'Parser key "([^"]+)"', message), found[1]])
    return None


def _unknown_class(option: str, name: str, where: str) -> list[str]:
    from anchor_lightning import data, detectors  # seconds, for which only a mistake has to wait

    known: list[str] = []
    if option == "model.detector":
        known = [kind for kind in detectors.__all__ if kind != detectors.Detector.__name__]
        if name in FORMER_DETECTORS:
            return [f"--{option} {name} is now --{option} {FORMER_DETECTORS[name]}", where]
    elif option == "data":
        known = list(data.SETS)
    else:
        return [f"--{option}: there is no class {name}; give its import path, as in package.module.Class", where]
    nearest = get_close_matches(name, known, n=1)
    text = f"--{option}: there is no class {name}; known are {', '.join(known)}"
    return [text, *(f"Did you mean {match}?" for match in nearest), where]


def known_options(parser: ArgumentParser, section: str = "", class_path: str | None = None) -> list[str]:
    """Options of a parser and its nested classes: those of a section's `class_path`, or of all detectors and data."""
    strings = [string for action in parser._actions for string in action.option_strings]
    names = [s.lstrip("-") for s in strings if s.startswith("--") and not s.endswith(("+", ".help"))]
    if class_path is not None and isinstance(kind := resolve_name(class_path), type):
        nested = [f"{section}.{name}" for name in parameters_of(kind)]
        nested = [name for name in nested if not _is_linked(name)]
    else:
        nested = option_names({}) if any(name.startswith("model.") for name in names) else data_option_names()
    return [*names, *(option for option in nested if any(option.startswith(f"{name}.") for name in names))]


def option_names(sections: Mapping[str, type]) -> list[str]:
    """Options of all data sets, each section's class, all detectors, and the shapes."""
    from anchor_lightning import detectors
    from anchor_lightning.anchors import AnchorOptions

    owners = [(f"{name}.", kind) for name, kind in sections.items()]
    owners += [("model.detector.", vars(detectors)[name]) for name in detectors.__all__]
    owners.append(("model.anchors.", AnchorOptions))
    return [*data_option_names(), *_names_of(owners)]


def data_option_names() -> list[str]:
    """Options of all data sets."""
    from anchor_lightning.data import SETS, AnnotatedSet

    return _names_of([("data.", AnnotatedSet), *(("data.", kind) for kind in SETS.values())])


def _names_of(owners: Sequence[tuple[str, type]]) -> list[str]:
    names = dict.fromkeys(f"{prefix}{name}" for prefix, kind in owners for name in parameters_of(kind))
    return [name for name in names if not _is_linked(name)]


def _is_linked(name: str) -> bool:
    """Whether a value comes from elsewhere and is no option: from the data module, or `model.anchors` in a detector."""
    return name == "model.detector.anchors" or (name.startswith("model.") and name.rpartition(".")[2] in LINKED)


def parameters_of(kind: type) -> Iterator[str]:
    """Names of the constructor's parameters, those of base classes that `**kwargs` stands for included."""
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base).parameters.values()
            yield from (p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                return


def message_of(error: BaseException, options: Callable[[], list[str]] = list) -> str | None:
    """What the user reads of an error, with the one of `options()` at fault; None where the traceback is needed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return _without_worker(_with_option(cause, options))
        cause = cause.__cause__  # jsonargparse raises its own error from what a class raises when it is made
    cause = error
    while cause is not None:
        if (text := _machine_limit(cause, options)) is not None:
            return text
        cause = cause.__cause__ or cause.__context__
    return None


def _with_option(error: UserError, options: Callable[[], list[str]]) -> str:
    if error.argument is None:
        return error.message
    named = [name for name in options() if name == error.argument or name.endswith(f".{error.argument}")]
    return f"--{named[0]}: {error.message}" if named else str(error)


def _without_worker(text: str) -> str:
    """The message alone where a worker process of a loader has put its traceback around it."""
    return text.rstrip().splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text


def _machine_limit(error: BaseException, options: Callable[[], list[str]]) -> str | None:
    """What the machine does not let the run do: full disk, open files, memory, folders; None for other errors."""
    text = " ".join(str(error).split())
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return f"{text}: raise the limit of open files (ulimit -n 4096), or lower data.num_workers"
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left on device" in text:
        return f"{text}: free some space, or give another folder as trainer.default_root_dir; what was complete is kept"
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is not None:
        return (
            f"{error.filename} cannot be read or written ({error.strerror}); correct the path, or give another "
            "trainer.default_root_dir or save_dir"
        )
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        lower = [f"--{name}" for name in options() if name.removeprefix("data.") in MEMORY_OPTIONS]
        return f"out of memory ({text[:200]})" + f"; lower {', '.join(lower)}" * bool(lower)
    if "DataLoader worker" in text and "Caught" not in text:
        return f"a data worker died ({text[:200]}); it may be out of memory: lower data.num_workers or data.batch_size"
    return None
