"""Where the process starts: `cht-rapidpro`, and `python -m cht_rapidpro`.

Invariant: from here on no SIGHUP ends `run`. The signal is blocked before the program is imported (0.3 s) and stays
pending until `daemon` reads it, which then reloads. Without it a reload during the start would kill the daemon.
"""

import signal
import sys


def main() -> int:
    """Runs the command line and returns its exit code."""
    if sys.argv[1:2] == ["run"]:  # every other command ends with its terminal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from cht_rapidpro.commands import main  # noqa: PLC0415 - after the signal is blocked

    return main.main()


if __name__ == "__main__":
    sys.exit(main())
