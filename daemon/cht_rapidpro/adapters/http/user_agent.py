"""The User-Agent of all requests, so that the logs of CouchDB and RapidPro show the caller."""

from importlib.metadata import version
from typing import Final

USER_AGENT: Final = {"User-Agent": f"cht-rapidpro/{version('cht-rapidpro')}"}
