"""A RapidPro simulator: the API v2 as the gateway meets it, with every trouble it can make.

The tests, the demo and the benchmarks talk to it over real sockets, in this process (`RapidPro`) or as a
process of its own (`python -m demo.rapidpro`). It follows observed behaviour, oddities included:
where it is friendlier than the real one, the gateway breaks in production.
"""

from .answers import Answer
from .calls import Call
from .faults import Delay, Fault, HalfBody, Hang, Reset
from .records import Broadcast, Contact, Message, Run
from .simulator import RapidPro

__all__ = [
    "Answer",
    "Broadcast",
    "Call",
    "Contact",
    "Delay",
    "Fault",
    "HalfBody",
    "Hang",
    "Message",
    "RapidPro",
    "Reset",
    "Run",
]
