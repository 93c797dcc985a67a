"""Configurations and options that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.robustness.harness import Case, Ending
from benchmarks.robustness.made import words, write


def with_config(data: Path, text: str | bytes) -> Sequence[str]:
    """A configuration `mine.yaml` behind the others."""
    write(data.parent / "mine.yaml", text)
    return ("--config", "mine.yaml")


def cases() -> list[Case]:
    """Files, then options by what is wrong with them, then other commands."""
    group = "Configurations"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    files: dict[str, tuple[str | bytes, str]] = {
        "a file that is no YAML": ("model: [", "mine.yaml"),
        "tabs": ("model:\n\twidth: 1", "mine.yaml"),
        "not UTF-8": (b"# caf\xe9\nmodel: {width: 0.1}", "mine.yaml"),
        "zeros": (bytes(100), "mine.yaml"),
        "an empty file": ("", "mine.yaml"),
        "a file of comments": ("# nothing\n", "mine.yaml"),
        "a list": ("- 1\n- 2\n", "mine.yaml"),
        "a word": ("hello", "mine.yaml|hello"),
        "an HTML page": ("<html><body>404</body></html>", "mine.yaml|html"),
        "Python objects": ("model: !!python/object/apply:os.system ['touch evil']", "mine.yaml"),
        "an alias bomb": (bomb + "model: {width: *i}", "mine.yaml|Key"),
        "5,000 brackets": ("model: " + "[" * 5000, "mine.yaml"),
        "a date that does not exist": ("model: {width: 2020-99-99}", "mine.yaml"),
        "an unknown key": ("modle: {width: 0.1}", "modle"),
        "an unknown key of the model": ("model: {widht: 0.1}", "widht"),
        "an unknown key of the data": ("data: {class_path: VOCDataModule, init_args: {rot: x}}", "rot"),
        "an unknown key of the trainer": ("trainer: {max_step: 5}", "max_step"),
        "an unknown data module": ("data: {class_path: PascalDataModule}", "PascalDataModule"),
        "a class that is no data module": ("data: {class_path: os.system, init_args: {command: ls}}", "os.system"),
        "a callback that runs a program": (
            "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, evil]}}]}",
            "callbacks",
        ),
        "model that is a number": ("model: 5", "model"),
        "data that is a number": ("data: 5", "data"),
        "a linked value: model.num_classes": ("model: {num_classes: 7}", "model.num_classes comes from the data"),
        "a linked value: model.class_names": ("model: {class_names: [a]}", "model.class_names comes from the data"),
        "a linked value: model.image_size": ("model: {image_size: [64, 64]}", "model.image_size comes from the data"),
    }
    result = [
        Case(group, what, prepare=partial(with_config, text=text), says=says) for what, (text, says) in files.items()
    ]
    result += [
        Case(group, "the same file twice", prepare=_twice, ends="goes on"),
        Case(group, "a file that is missing", prepare=words("--config", "ghost.yaml"), says="ghost.yaml"),
        Case(group, "a folder as file", prepare=words("--config", "data"), says="--config data"),
        Case(group, "--config without a name", prepare=words("--config"), says="config"),
    ]
    # Option -> what is given, and what must be named.
    given: dict[str, tuple[str, str]] = {
        "an unknown option": ("--model.widht=0.1", "widht"),
        "an unknown group": ("--modell.width=0.1", "modell"),
        "a stray word": ("hello", "hello"),
        "a width that is a word": ("--model.width=wide", "model.width"),
        "a width of 0": ("--model.width=0", "model.width"),
        "a negative width": ("--model.width=-1", "model.width"),
        "a width that is NaN": ("--model.width=nan", "model.width"),
        "a width of infinity": ("--model.width=inf", "model.width"),
        "an image size of 0": ("--data.image_size=0", "data.image_size"),
        "a negative image size": ("--data.image_size=-64", "data.image_size"),
        "an image size of 100": ("--data.image_size=100", "data.image_size.*96 or 128"),
        "an image size of three sides": ("--data.image_size=[64,64,64]", "data.image_size"),
        "an image size that is a word": ("--data.image_size=large", "image_size"),
        "an image size with a fraction": ("--data.image_size=64.5", "image_size"),
        "an image size of 3,200,000": ("--data.image_size=3200000", "data.image_size"),
        "a batch of 0": ("--data.batch_size=0", "data.batch_size"),
        "a negative batch": ("--data.batch_size=-4", "data.batch_size"),
        "a batch of a thousand for four images": ("--data.batch_size=1000", "data.batch_size"),
        "negative workers": ("--data.num_workers=-1", "data.num_workers"),
        "a negative seed of the data": ("--data.seed=-1", "data.seed"),
        "a negative seed": ("--seed_everything=-1", "seed"),
        "a seed that is a word": ("--seed_everything=hello", "seed_everything"),
        "no anchors": ("--model.anchors.num=0", "model.anchors.num|anchors"),
        "a negative number of anchors": ("--model.anchors.num=-5", "anchors"),
        "a billion anchors": ("--model.anchors.num=1000000000", "anchors"),
        "anchors that are no list": ("--model.anchors.init=oval", "oval"),
        "an anchor of negative width": ("--model.anchors.init=[[10,-4]]", "must be positive"),
        "an anchor of three numbers": ("--model.anchors.init=[[10,4,5]]", "anchors"),
        "an anchor that is NaN": ("--model.anchors.init=[[.nan,4]]", "anchors|must be"),
        "an empty list of anchors": ("--model.anchors.init=[]", "anchors"),
        "a learning rate that is negative": ("--model.learning_rate={0: -0.1}", "learning_rate"),
        "a learning rate that is NaN": ("--model.learning_rate={0: .nan}", "learning_rate"),
        "a learning rate without step 0": ("--model.learning_rate={5: 0.1}", "learning_rate"),
        "a learning rate for step -1": ("--model.learning_rate={0: 0.1, -1: 0.1}", "learning_rate"),
        "no learning rate": ("--model.learning_rate={}", "learning_rate"),
        "a momentum of 1": ("--model.momentum=1", "model.momentum"),
        "a momentum that is NaN": ("--model.momentum=nan", "model.momentum"),
        "a negative weight decay": ("--model.weight_decay=-1", "model.weight_decay"),
        "a weight decay that is NaN": ("--model.weight_decay=nan", "model.weight_decay"),
        "a score threshold of 2": ("--model.score_threshold=2", "model.score_threshold"),
        "a distance that nobody knows": ("--model.distance=cosine", "distance"),
        "a detector that nobody knows": ("--model.detector=yolov9", "yolov9"),
        "an option of another detector": ("--model.weights_backbone=IMAGENET1K_V1", "weights_backbone"),
        "a negative warm-up": ("--soft_assignment.steps=-1", "must be 0 or more"),
        "a temperature that is negative": ("--soft_assignment.start=-1", "soft_assignment.start|start"),
        "a temperature that is NaN": ("--soft_assignment.start=nan", "start"),
        "a schedule that nobody knows": ("--soft_assignment.schedule=cosine", "schedule"),
        "a negative clustering weight": ("--clustering.start=-1", "start"),
        "a clustering weight that is NaN": ("--clustering.start=nan", "start"),
        "an lr_mult that is NaN": ("--model.anchors.lr_mult=nan", "lr_mult"),
        "prior_images -1": ("--model.prior_images=-1", "prior_images"),
        "a precision that nobody knows": ("--trainer.precision=7", "precision"),
        "an accelerator that nobody knows": ("--trainer.accelerator=abacus", "abacus"),
        "a GPU where there is none": ("--trainer.accelerator=cuda", "[Cc][Uu][Dd][Aa]|accelerator"),
        "zero devices": ("--trainer.devices=0", "devices"),
        "max_steps -5": ("--trainer.max_steps=-5", "max_steps"),
        "a checkpoint every -1 steps": ("--checkpoint.every_n_train_steps=-1", "every_n_train_steps"),
        "an anchor log every 0 steps": ("--anchor_logger.every_n_steps=0", "every_n_steps"),
        "pictures of -1 images": ("--prediction_pictures.num_images=-1", "num_images"),
        "class names that are one word twice": ('--data.class_names=["dog","dog","cat"]', "class_names"),
        "an empty list of class names": ("--data.class_names=[]", "class_names"),
        "class names that lack one": ('--data.class_names=["dog"]', "data.class_names"),
        "a root that is a file": ("--data.root=data/Annotations/t0.xml", "t0.xml"),
        "a root that is missing": ("--data.root=nowhere", "nowhere"),
        "an empty root": ("--data.root=", "root"),
        "a root with a zero byte": ("--data.root=a\0b", "root"),
        "a split that is missing": ("--data.train_split=ghost", "ghost"),
        "the same split to train and validate": ("--data.val_split=train", "both in the training split"),
        "an option of another data module": ("--data.num_train=5", "num_train"),
    }
    result += [Case(group, what, prepare=words(word), says=says) for what, (word, says) in given.items()]
    harmless: dict[str, str] = {
        "an image size given as a pair": "--data.image_size=[64,96]",
        "a width of 0.01": "--model.width=0.01",
        "a checkpoint every 0 steps: at the end only": "--checkpoint.every_n_train_steps=0",
        "one anchor": "--model.anchors.num=1",
        "shell words in a name": "--trainer.default_root_dir=runs;touch evil;$(touch evil)",
    }
    result += [
        Case(group, what, prepare=words(word), ends="goes on", makes="run*/**/last.ckpt", after=_no_evil)
        for what, word in harmless.items()
    ]
    return result + _commands()


def _twice(data: Path) -> Sequence[str]:
    return (*with_config(data, "model: {momentum: 0.5}"), "--config", "mine.yaml")


def _no_evil() -> str | None:
    return "a shell was called" if any(Path().rglob("evil*")) else None


def _commands() -> list[Case]:
    """What the command line as a whole may lack, and the commands beside Lightning's."""
    group = "Commands"
    bare: dict[str, tuple[tuple[str, ...], Ending, str]] = {
        "no command": ((), "refused", "fit|subcommand"),
        "a command that nobody knows": (("learn",), "refused", "learn"),
        "`anchors` without its own command": (("anchors",), "refused", "give a sub-command"),
        "`anchors fit` without data": (("anchors", "fit"), "refused", "data"),
        "`anchors fit` on a folder that is missing": (("anchors", "fit", "--data=nowhere"), "refused", "nowhere"),
        "`anchors fit` on a picture": (("anchors", "fit", "--data=data/JPEGImages/t0.jpg"), "refused", "t0.jpg"),
        "`anchors fit` of 0 shapes": (("anchors", "fit", "--data=data", "--num=0"), "refused", "num"),
        "`anchors fit` of 1,000 shapes": (
            ("anchors", "fit", "--data=data", "--num=1000"),
            "refused",
            "1,?000|distinct",
        ),
        "`anchors score` of words": (("anchors", "score", "--data=data", "--shapes", "oval"), "refused", "oval"),
        "`anchors score` of NaN": (("anchors", "score", "--data=data", "--shapes", "[[NaN,1]]"), "refused", "--shapes"),
        "`anchors export` of a picture": (
            ("anchors", "export", "--shapes=data/JPEGImages/t0.jpg", "--to=darknet"),
            "refused",
            "t0.jpg",
        ),
        "`predict --source` without a checkpoint": (("predict", "--source=data"), "refused", "ckpt_path"),
        "`predict --source` with a checkpoint that is missing": (
            ("predict", "--source=data/JPEGImages", "--ckpt_path=ghost.ckpt"),
            "refused",
            "ghost.ckpt",
        ),
        "`export` of a checkpoint that is missing": (
            ("export", "--ckpt_path=ghost.ckpt", "--format=darknet"),
            "refused",
            "ghost.ckpt",
        ),
        "`sweep` of a file that is missing": (("sweep", "--file=ghost.yaml"), "refused", "ghost.yaml"),
        "`sweep` of a file that is no sweep": (("sweep", "--file=data/Annotations/t0.xml"), "refused", "t0.xml"),
        "`validate` without data": (("validate", "--config=voc.yaml", "--data.root=nowhere"), "refused", "nowhere"),
    }
    return [
        Case(group, what, "voc", command=command, plain=True, ends=ends, says=says)
        for what, (command, ends, says) in bare.items()
    ]
