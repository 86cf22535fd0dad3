"""What `cht-rapidpro demo` and the tests themselves stand on."""

import aiohttp

from demo.rapidpro import RapidPro


def client(rapidpro: RapidPro) -> aiohttp.ClientSession:
    [token] = rapidpro.tokens
    return aiohttp.ClientSession(f"{rapidpro.url}/api/v2/", headers={"Authorization": f"Token {token}"})
