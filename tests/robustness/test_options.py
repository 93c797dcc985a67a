"""Configurations and options that cannot be, and what the commands lack."""

from __future__ import annotations

from typing import Final

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from anchor_lightning.cli import main
from tests.helpers.bad_input import ALIAS_BOMB, ARGS, DETECTOR, CommandLine, cases, write

FIT = ("fit", *ARGS["voc"])
XML: Final = "data/Annotations/2012_10000.xml"
PICTURE: Final = "data/JPEGImages/2012_10000.jpg"
FILES: dict[str, object] = {
    "no YAML": ("model: [", "mine.yaml"),
    "not UTF-8": (b"# caf\xe9\nmodel: {momentum: 0.1}", "mine.yaml"),
    "an empty file": ("", "mine.yaml"),
    "a list": ("- 1\n- 2\n", "mine.yaml"),
    "an HTML page": ("<html><body>404</body></html>", "mine.yaml|html"),
    "Python objects": ("model: !!python/object/apply:os.system ['touch evil']", "mine.yaml"),
    "an alias bomb": (ALIAS_BOMB + "model: {momentum: *i}", "mine.yaml|Key|momentum"),
    "1,000 brackets": ("model: " + "[" * 1000, "mine.yaml"),
    "a date that does not exist": ("model: {momentum: 2020-99-99}", "mine.yaml"),
    "an unknown key": ("modle: {momentum: 0.1}", "modle"),
    "an unknown key of the trainer": ("trainer: {max_step: 5}", "max_step"),
    "an unknown data module": ("data: {class_path: PascalDataModule}", "PascalDataModule"),
    "a class that is no data module": ("data: {class_path: os.system, init_args: {command: ls}}", "os.system"),
    "a callback that runs a program": (
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, evil]}}]}",
        "callbacks",
    ),
    "model that is a number": ("model: 5", "model"),
    "a linked value: num_classes": ("model: {num_classes: 7}", "num_classes"),
    "a linked value: class_names": ("model: {class_names: [a]}", "class_names"),
    "a linked value: image_size": ("model: {image_size: [64, 64]}", "image_size"),
}
INVALID: dict[str, object] = {
    "a file that is missing": ("--config=ghost.yaml", "ghost.yaml"),
    "a folder as file": ("--config=data", "data"),
    "--config without a name": ("--config", "config"),
    "an unknown option": (f"{DETECTOR}.widht=0.1", "widht"),
    "an unknown group": ("--modell.momentum=0.1", "modell"),
    "a width that is a word": (f"{DETECTOR}.width=wide", "width"),
    "a width of 0": (f"{DETECTOR}.width=0", "width"),
    "a negative width": (f"{DETECTOR}.width=-1", "width"),
    "a width that is NaN": (f"{DETECTOR}.width=nan", "width"),
    "a width of infinity": (f"{DETECTOR}.width=inf", "width"),
    "an image size of 0": ("--data.image_size=0", "image_size"),
    "an image size of 100": ("--data.image_size=100", "image_size 96 128"),
    "an image size of three sides": ("--data.image_size=[64,64,64]", "image_size"),
    "an image size of 3,200,000": ("--data.image_size=3200000", "image_size"),
    "a batch of 0": ("--data.batch_size=0", "batch_size"),
    "a batch of a thousand for four images": ("--data.batch_size=1000", "batch_size"),
    "negative workers": ("--data.num_workers=-1", "num_workers"),
    "a negative seed of the data": ("--data.seed=-1", "seed"),
    "a negative seed": ("--seed_everything=-1", "seed"),
    "a seed that is a word": ("--seed_everything=hello", "seed_everything"),
    "no anchors": ("--model.anchors.num=0", "anchors"),
    "a billion anchors": ("--model.anchors.num=1000000000", "anchors"),
    "anchors that are no list": ("--model.anchors.init=oval", "oval"),
    "an anchor of negative width": ("--model.anchors.init=[[10,-4]]", "positive"),
    "an anchor of three numbers": ("--model.anchors.init=[[10,4,5]]", "anchors"),
    "an anchor that is NaN": ("--model.anchors.init=[[.nan,4]]", "anchors"),
    "an empty list of anchors": ("--model.anchors.init=[]", "anchors"),
    "a learning rate that is negative": ("--model.learning_rate={0: -0.1}", "learning_rate"),
    "a learning rate that is NaN": ("--model.learning_rate={0: .nan}", "learning_rate"),
    "a learning rate without step 0": ("--model.learning_rate={5: 0.1}", "learning_rate"),
    "no learning rate": ("--model.learning_rate={}", "learning_rate"),
    "a momentum of 1": ("--model.momentum=1", "momentum"),
    "a momentum that is NaN": ("--model.momentum=nan", "momentum"),
    "a negative weight decay": ("--model.weight_decay=-1", "weight_decay"),
    "a weight decay that is NaN": ("--model.weight_decay=nan", "weight_decay"),
    "a score threshold of 2": ("--model.score_threshold=2", "score_threshold"),
    "a distance that nobody knows": ("--model.distance=cosine", "distance"),
    "an option of another detector": (f"{DETECTOR}.backbone=resnet50", "backbone"),
    "a negative warm-up": ("--soft_assignment.steps=-1", "steps"),
    "a temperature that is negative": ("--soft_assignment.start=-1", "start"),
    "a temperature that is NaN": ("--soft_assignment.start=nan", "start"),
    "a schedule that nobody knows": ("--soft_assignment.schedule=cosine", "schedule"),
    "a negative clustering weight": ("--clustering.start=-1", "start"),
    "a clustering weight that is NaN": ("--clustering.start=nan", "start"),
    "an lr_mult that is NaN": ("--model.anchors.lr_mult=nan", "lr_mult"),
    "prior_images -1": (f"{DETECTOR}.prior_images=-1", "prior_images"),
    "a precision that nobody knows": ("--trainer.precision=7", "precision"),
    "float16 without loss scaling": ("--trainer.precision=16-true", "precision 16-mixed"),
    "a GPU where there is none": ("--trainer.accelerator=cuda", "CUDA"),
    "zero devices": ("--trainer.devices=0", "devices"),
    "max_steps -5": ("--trainer.max_steps=-5", "max_steps"),
    "an anchor log every 0 steps": ("--anchor_logger.every_n_steps=0", "every_n_steps"),
    "pictures of -1 images": ("--prediction_pictures.num_images=-1", "num_images"),
    "class names that are one word twice": ('--data.class_names=["dog","dog","cat"]', "class_names"),
    "class names that lack one": ('--data.class_names=["dog"]', "class_names"),
    "a root that is a file": (f"--data.root={XML}", "2012_10000.xml"),
    "a root that is missing": ("--data.root=nowhere", "nowhere"),
    "an empty root": ("--data.root=", "root"),
    "a root with a zero byte": ("--data.root=a\0b", "root"),
    "a split that is missing": ("--data.train_split=ghost", "ghost"),
    "the same split to train and validate": ("--data.val_split=train", "4.images"),
    "an option of another data module": ("--data.num_train=5", "num_train"),
    "a run folder below a file": (f"--trainer.default_root_dir={XML}/runs", "2012_10000.xml"),
    "a run folder in /proc": ("--trainer.default_root_dir=/proc/runs", "/proc/runs"),
    "a run folder of 300 letters": (f"--trainer.default_root_dir={'x' * 300}", "xxx"),
}
# What Lightning itself rejects keeps its traceback.
LIGHTNING: dict[str, object] = {
    "an accelerator that nobody knows": ("--trainer.accelerator=abacus", "abacus"),
    "a checkpoint every -1 steps": ("--checkpoint.every_n_train_steps=-1", "every_n_train_steps"),
}
VALID: dict[str, object] = {
    "an image size given as a pair": "--data.image_size=[64,96]",
    "a width of 0.01": f"{DETECTOR}.width=0.01",
    "a checkpoint every 0 steps: at the end only": "--checkpoint.every_n_train_steps=0",
    "one anchor": "--model.anchors.num=1",
    "shell words in a name": "--trainer.default_root_dir=runs;touch evil;$(touch evil)",
}
COMMANDS: dict[str, object] = {
    "no command": ("", "fit|subcommand"),
    "a command that nobody knows": ("learn", "learn"),
    "`anchors` without its own command": ("anchors", "sub-?command"),
    "`anchors fit` without data": ("anchors fit", "data"),
    "`anchors fit` on a folder that is missing": ("anchors fit --data=nowhere", "nowhere"),
    "`anchors fit` on a picture": (f"anchors fit --data={PICTURE}", "2012_10000.jpg"),
    "`anchors fit` of 0 shapes": ("anchors fit --data=data --num=0", "num"),
    "`anchors fit` of 1,000 shapes": ("anchors fit --data=data --num=1000", "1,?000"),
    "`anchors score` of words": ("anchors score --data=data --shapes oval", "oval"),
    "`anchors score` of NaN": ("anchors score --data=data --shapes [[NaN,1]]", "shapes nan"),
    "`anchors export` of a picture": (f"anchors export --shapes={PICTURE} --to=darknet", "2012_10000.jpg"),
    "`predict --source` without a checkpoint": ("predict --source=data", "ckpt_path"),
    "`predict --source` with a checkpoint that is missing": (
        "predict --source=data/JPEGImages --ckpt_path=ghost.ckpt",
        "ghost.ckpt",
    ),
    "`export` of a checkpoint that is missing": ("export --ckpt_path=ghost.ckpt --format=darknet", "ghost.ckpt"),
    "`sweep` of a file that is missing": ("sweep --file=ghost.yaml", "ghost.yaml"),
    "`sweep` of a file that is no sweep": (f"sweep --file={XML}", "2012_10000.xml"),
    "`validate` without data": ("validate --config=voc.yaml --data.root=nowhere", "nowhere"),
}


@cases("text, says", FILES, ("an unknown key",))
def test_file(command_line: CommandLine, text: str | bytes, says: str) -> None:
    command_line.copy("voc")
    write("mine.yaml", text)
    command_line.fails(says, *FIT, "--config", "mine.yaml")


@cases("option, says", INVALID, ("an image size of 100", "a width of 0"))
def test_invalid(command_line: CommandLine, option: str, says: str) -> None:
    if "cuda" in option and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command_line.copy("voc")
    command_line.fails(says, *FIT, option)


@cases("option, says", LIGHTNING)
def test_invalid_for_lightning(command_line: CommandLine, option: str, says: str) -> None:
    command_line.copy("voc")
    with pytest.raises((ValueError, MisconfigurationException), match=says):
        main([*FIT, option])


@cases("option", VALID)
def test_valid(command_line: CommandLine, option: str) -> None:
    command_line.copy("voc")
    write("mine.yaml", "model: {momentum: 0.5}")
    command_line.succeeds("", *FIT, *["--config=mine.yaml"] * 2, option, makes="run*/**/last.ckpt")


@cases("command, says", COMMANDS, ("`anchors fit` of 1,000 shapes",))
def test_command(command_line: CommandLine, command: str, says: str) -> None:
    command_line.copy("voc")
    command_line.fails(says, *command.split())
