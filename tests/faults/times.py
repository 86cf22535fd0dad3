"""The short times that the fault suite runs a daemon with, in their right proportions.

What an ambiguous message waits for is measured in minutes in production. Here it is seconds, and the order stays:
a slow answer takes effect after `timeout` and before `settle_time` is over, a claim is taken over after the last POST
that may have begun under it has ended. With another order the suite would find duplicates that nobody can prevent.
"""

from typing import Final

TIMEOUT: Final = 1.0
SETTLE_TIME: Final = 2.0
CLAIM_TIMEOUT: Final = 4.0
SWEEP_INTERVAL: Final = 0.3


def sections(coalesce: str = "off") -> dict[str, dict[str, object]]:
    """The sections of a daemon's configuration that differ from the defaults."""
    return {
        "rapidpro": {"timeout": _duration(TIMEOUT), "requests_per_hour": "unlimited"},
        "outgoing": {
            "settle_time": _duration(SETTLE_TIME),
            "claim_timeout": _duration(CLAIM_TIMEOUT),
            "sweep_interval": _duration(SWEEP_INTERVAL),
            "coalesce": coalesce,
        },
    }


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
