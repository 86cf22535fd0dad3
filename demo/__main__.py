"""`python -m demo [--keep]` shows the whole gateway on this machine, without a configuration (`make demo`)."""

import argparse
import asyncio
import os
import sys

from cht_rapidpro.commands.main import PIPE_CLOSED
from cht_rapidpro.errors import GatewayError
from demo import story


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep running afterwards, until Ctrl-C")
    args = parser.parse_args()
    try:
        return asyncio.run(story.run(keep=args.keep))
    except GatewayError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails
        return PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
