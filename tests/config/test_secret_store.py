"""The secrets in force: replaced whole, told to whoever listens, renewed when somebody was refused."""

import pytest

from cht_rapidpro.config.secret_store import Keyring, Refused, Secrets
from cht_rapidpro.config.secrets import Secret

OLD, NEW = Secret("old-key"), Secret("clé-🔑")


@pytest.mark.parametrize(
    ("keys", "given", "admitted"),
    [
        ((OLD,), "old-key", True),
        ((OLD, NEW), "old-key", True),
        ((OLD, NEW), "clé-🔑", True),
        ((OLD, NEW), "old-ke", False),
        ((OLD, NEW), "old-key ", False),
        ((OLD, NEW), "", False),
        ((OLD, NEW), "\udce9", False),
        ((), "", False),
        ((), "old-key", False),
    ],
)
def test_which_key_opens_the_webhook(keys: tuple[Secret, ...], given: str, admitted: bool) -> None:
    assert Secrets(incoming_keys=keys).admits(given) is admitted


def test_listeners_hear_of_changes_alone() -> None:
    keyring, heard = Keyring(Secrets(OLD)), list[Secrets]()
    keyring.subscribe(lambda: heard.append(keyring.secrets))
    keyring.replace(Secrets(Secret("old-key")))
    keyring.replace(Secrets(NEW))
    assert heard == [Secrets(NEW)]


async def test_a_refused_secret_is_renewed_from_its_source() -> None:
    keyring = Keyring(Secrets(OLD))
    await keyring.renew("incoming_keys")
    assert keyring.secrets == Secrets(OLD), "the configuration has nothing newer to give"

    async def source(_: Refused) -> None:
        keyring.replace(Secrets(NEW))

    keyring.refill_from(source)
    await keyring.renew("incoming_keys")
    assert keyring.secrets == Secrets(NEW)


def test_nothing_shows_them() -> None:
    assert "old-key" not in f"{Secrets(OLD, (OLD,))!r} {Keyring(Secrets(OLD))!r}"
