"""The SMS gateway between the Community Health Toolkit (CHT) and RapidPro.

structlog takes `rich` along wherever it is installed, for tracebacks that we never show: 4 MB of a daemon's memory. It
is imported here, before any module of ours, as if there were none; the demo imports it afterwards on its own.
"""

import sys

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment] # "None: import raises ModuleNotFoundError"
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
