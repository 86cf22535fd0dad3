"""A signal: those who subscribe are called at each emit, in the order of their subscription."""

from collections.abc import Callable
from typing import Generic, TypeVarTuple

Values = TypeVarTuple("Values")


class Signal(Generic[*Values]):
    """`Signal[()]` carries nothing, `Signal[int]` a number. A subscriber must not block and must not raise."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[*Values], object]] = []

    def subscribe(self, subscriber: Callable[[*Values], object]) -> None:
        self._subscribers.append(subscriber)

    def emit(self, *values: *Values) -> None:
        for subscriber in self._subscribers:
            subscriber(*values)
