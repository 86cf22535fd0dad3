"""The SMS gateway between the Community Health Toolkit (CHT) and RapidPro.

`import structlog` always imports `rich` where it is installed (4 MB of memory, for tracebacks that the daemon never
prints), and structlog has no setting against it: so `rich` is hidden while structlog is imported.
"""

import sys

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment] # "None: import raises ModuleNotFoundError"
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
