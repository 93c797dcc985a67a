"""Lightning's classes by name: the packages `lightning` and `pytorch_lightning` each have their own of every one."""

from __future__ import annotations


def is_lightning(value: object, *names: str) -> bool:
    """Whether a value is an instance of a class of Lightning of one of the names, or of a subclass of one."""
    packages = ("lightning.pytorch", "pytorch_lightning")
    return any(base.__name__ in names and base.__module__.startswith(packages) for base in type(value).__mro__)
