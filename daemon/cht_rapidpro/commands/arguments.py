"""What a command that a person types finds without being told: the configuration, and as root the service's secrets.

Invariant: `check` from root's shell judges what the service gets. Without it every secret is missing there, because
systemd hands them to the service alone.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CONFIG_VARIABLE: Final = "CHT_RAPIDPRO_CONFIG"
INSTALLED_CONFIG: Final = "/etc/cht-rapidpro/config.toml"
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"


def add_config(command: argparse.ArgumentParser) -> None:
    """Give a command its option --config."""
    command.add_argument(
        "--config",
        type=Path,
        default=default_config(os.environ),
        metavar="FILE",
        help=f"the TOML configuration; default: ${CONFIG_VARIABLE}, then {INSTALLED_CONFIG}",
    )


def default_config(environ: Mapping[str, str]) -> Path:
    """Return the configuration file of a command without --config."""
    return Path(environ.get(CONFIG_VARIABLE) or INSTALLED_CONFIG)


def service_environ(environ: Mapping[str, str], config: Path, *, is_root: bool) -> dict[str, str]:
    """Return `environ`, for root and the installed configuration with the folder that the unit takes the secrets from.

    An environment that has credentials already stays as it is.
    """
    if not is_root or _CREDENTIALS in environ or config.absolute() != Path(INSTALLED_CONFIG):
        return dict(environ)
    return {**environ, _CREDENTIALS: str(Path(INSTALLED_CONFIG).parent)}
