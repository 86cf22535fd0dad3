"""How requests of ours name themselves, so that CouchDB's and RapidPro's logs tell who calls."""

from importlib.metadata import version
from typing import Final

USER_AGENT: Final = {"User-Agent": f"cht-rapidpro/{version('cht-rapidpro')}"}
