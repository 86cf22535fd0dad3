"""What a command finds without being told."""

from pathlib import Path

import pytest

from cht_rapidpro.commands.arguments import default_config, service_environ


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "/etc/cht-rapidpro/config.toml"),
        ({"CHT_RAPIDPRO_CONFIG": ""}, "/etc/cht-rapidpro/config.toml"),
        ({"CHT_RAPIDPRO_CONFIG": "mine.toml"}, "mine.toml"),
    ],
)
def test_the_configuration_of_a_command_without_config(environ: dict[str, str], path: str) -> None:
    assert default_config(environ) == Path(path)


def test_root_gets_the_secrets_of_the_service() -> None:
    installed, environ = Path("/etc/cht-rapidpro/config.toml"), {"HOME": "/root"}
    assert service_environ(environ, installed, is_root=True) == {
        **environ,
        "CREDENTIALS_DIRECTORY": "/etc/cht-rapidpro",
    }
    assert service_environ(environ, installed, is_root=False) == environ
    assert service_environ(environ, Path("/srv/other/config.toml"), is_root=True) == environ
    given = {"CREDENTIALS_DIRECTORY": "/run/credentials/cht-rapidpro.service"}
    assert service_environ(given, installed, is_root=True) == given
