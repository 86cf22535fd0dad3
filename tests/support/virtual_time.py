"""Time that a test can set forward, on a loop that otherwise runs with real sockets and real processes.

A loop that skips every wait by itself would also skip the time-outs of requests that another process is just about to
answer; so time runs as usual, and a test that knows nothing is under way jumps over the minutes it does not want to
wait for.
"""

import asyncio
import time


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is ahead of the real one by the sum of all jumps."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def jump(seconds: float) -> None:
    """Sets the running loop's clock forward: what was to happen meanwhile happens now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.ahead += seconds
    loop.call_soon(lambda: None)


def wall_clock() -> int:
    """Milliseconds since the epoch, jumps included."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    return int((time.time() + loop.ahead) * 1000)
