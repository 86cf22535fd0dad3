"""Checks CHT's vault: reachable with the configured user, and which credentials are usable.

It reads as the daemon does, so that a credential that is usable here is usable there.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Unreadable, Vault, needed
from cht_rapidpro.commands.check.finding import Finding, bad, good
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.errors import GatewayError

_MEANS: Final[Mapping[CredentialName, str]] = {
    CredentialName.OUTGOING: "nothing is sent",
    CredentialName.INCOMING: "every webhook is refused",
}


async def check_vault(config: Config) -> tuple[list[Finding], Secret]:
    """The findings, and RapidPro's token, empty where there is no usable one."""
    async with Couch(config.couchdb) as couch:
        try:
            found = await Vault(couch).read(needed(config))
        except GatewayError as error:
            return [bad("vault.readable", str(error), "see [cht] credentials in the configuration")], NO_SECRET
    token = found[CredentialName.OUTGOING]
    return list(_findings(found)), token if isinstance(token, Secret) else NO_SECRET


def _findings(found: Mapping[CredentialName, Secret | Unreadable]) -> Iterator[Finding]:
    for name, value in found.items():
        about = f"vault.{name.name.lower()}"
        if isinstance(value, Secret) and value:
            yield good(about, f"{name} can be used")
        else:
            why = value.why if isinstance(value, Unreadable) else "there is none"
            yield bad(about, f"{name}: {why}; {_MEANS[name]}", f"cht-rapidpro credentials set {name}")
