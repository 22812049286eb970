"""What many functions ask of their arguments alike, seeds and examples; and old names, of arguments and of attributes, that go on working."""

from __future__ import annotations

import functools
import inspect
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from weightlapse.errors import InvalidArgument

P = ParamSpec("P")
R = TypeVar("R")


def warn_of_former(asked: str, now: str, old: str, version: str) -> None:
    """A DeprecationWarning at the line that called the caller: ``asked`` is called ``now``, and its ``old`` name goes in ``version``."""
    warnings.warn(f"{asked} is called {now} now; {old} goes in version {version}", DeprecationWarning, stacklevel=3)


def renamed(
    version: str, **names: str | tuple[str, Callable[[Any], Any]]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function be called by old keywords (``old="new"``) until ``version``, the release that removes them.

    Each call by an old one gives a DeprecationWarning at the caller's line. ``old=("new", convert)``: where the new one means something else, what
    it is in the new one's terms. A type checker sees the new names alone.

    Raises InvalidArgument, when it is called, for an old and a new name at once.

    >>> import warnings
    >>> @renamed("0.3", size="width")
    ... def double(width: int) -> int:
    ...     return 2 * width
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     print(double(size=3), told[0].message)
    6 double(size=) is called width= now; size= goes in version 0.3
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        places = list(inspect.signature(function).parameters)
        title = function.__name__
        moves = {old: new if isinstance(new, tuple) else (new, None) for old, new in names.items()}
        assert all(new in places and old not in places for old, (new, _) in moves.items()), title

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in moves.keys() & kwargs.keys():
                new, convert = moves[old]
                if new in kwargs or len(args) > places.index(new):
                    raise InvalidArgument(f"{title}: {new}= and {old}=, its old name, are given both; leave {old}= out")
                warn_of_former(f"{title}({old}=)", f"{new}=", f"{old}=", version)
                value = kwargs.pop(old)
                kwargs[new] = value if convert is None else convert(value)
            return function(*args, **kwargs)

        return called

    return decorate


class Former:
    """The old name of an attribute, until ``version``, the release that removes it: ``epochs = Former("0.3", "layouts")``.

    Whoever asks for it is given what has the new name, and a DeprecationWarning at his line. Assigning to it is an AttributeError. Hide it
    from type checkers (``if not TYPE_CHECKING``), so that they see the new name alone.
    """

    def __init__(self, version: str, now: str) -> None:
        self.version, self.now = version, now

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.__doc__ = f"The old name of ``{self.now}``; it goes in version {self.version}."

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        warn_of_former(f"{owner.__name__}.{self.name}", self.now, self.name, self.version)
        return getattr(instance, self.now)

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(
            f"{type(instance).__name__}.{self.name} cannot be assigned to: it is the old name of {self.now}"
        )


def search_seed(seed: int | None) -> int:
    """The seed of a function that only searches: None is 0. Raises InvalidArgument for anything but a whole number, 0 or more."""
    if seed is None:
        return 0
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidArgument(f"seed must be a whole number, 0 or more, or None, got {seed!r}")
    return number


def examples_of(examples: Sequence[Any], example: Any) -> tuple[Any, ...]:
    """The examples of a call, given one by one or as ``example=``. Raises InvalidArgument for both at once."""
    if example is None:
        return tuple(examples)
    if examples:
        raise InvalidArgument(
            f"example= and {len(examples)} positional example{'s' * (len(examples) > 1)} are given both: example= is one alone; give all of "
            "several by position, each a tensor or a tuple of the arguments of one call"
        )
    return (example,)
