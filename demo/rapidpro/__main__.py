"""The simulator as a process of its own: `python -m demo.rapidpro --port 0 --token SECRET`.

The first line on stdout is JSON and tells the URL; strings are pulled over `/control/…`. SIGTERM and SIGINT
end it with 0.
"""

import argparse
import asyncio
import json
import signal

from .simulator import RapidPro


def main() -> None:
    asyncio.run(_serve(_options()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.rapidpro", description="RapidPro simulator")
    parser.add_argument("--port", type=int, default=0, help="0: the kernel chooses")
    parser.add_argument("--token", required=True, help="the one API token that is valid")
    parser.add_argument("--country", default="KE", help="the workspace's, ISO 3166 alpha-2")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--requests-per-hour", type=int, help="for each scope; default: no limit")
    parser.add_argument("--one-scope", action="store_true", help="count all calls against one limit")
    parser.add_argument("--page-size", type=int, default=250)
    parser.add_argument(
        "--progress",
        nargs="*",
        type=_step,
        default=(),
        metavar="SECONDS:STATUS",
        help="e.g. 0.2:wired 0.5:sent",
    )
    return parser.parse_args()


def _step(text: str) -> tuple[float, str]:
    seconds, _, status = text.partition(":")
    return float(seconds), status


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with RapidPro(**vars(options)) as rapidpro:
        print(json.dumps({"url": rapidpro.url}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
