"""What a command finds without being told."""

from pathlib import Path

import pytest

from cht_rapidpro.shell import default_config, service_environ


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


@pytest.mark.parametrize("name", ["couchdb-password", "rapidpro-token", "incoming-key"])
def test_root_gets_the_secrets_of_the_service(tmp_path: Path, name: str) -> None:
    config, environ = tmp_path / "config.toml", {"HOME": "/root"}
    assert service_environ(environ, config, is_root=True) == environ, "there are none"
    (tmp_path / name).touch()
    assert service_environ(environ, config, is_root=True) == {**environ, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert service_environ(environ, config, is_root=False) == environ
    given = {"CREDENTIALS_DIRECTORY": "/run/credentials/cht-rapidpro.service"}
    assert service_environ(given, config, is_root=True) == given
