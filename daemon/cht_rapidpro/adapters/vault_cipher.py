"""How CHT enciphers a credential: AES-256-CBC under a key made of CouchDB's own secret (CHT.md, "Credentials").

Text in, text out, in CHT's very format, so that either side reads what the other wrote. The library is imported at the
first use, which therefore belongs into a thread: only who uses the vault has to pay for its memory.
"""

import os
from typing import Final

from cht_rapidpro.errors import PermanentError

_KEY_BYTES: Final = 32
_BLOCK: Final = 16


def encipher(text: str, node_secret: str) -> str:
    """`text` as CHT stores it: hex of a new random IV, a colon, hex of the ciphertext."""
    return encipher_with(os.urandom(_BLOCK), text, node_secret)


def encipher_with(iv: bytes, text: str, node_secret: str) -> str:
    """The same with an IV of 16 bytes that the caller vouches for: one that is used twice tells of equal beginnings."""
    from Cryptodome.Cipher import AES  # noqa: PLC0415 - see above
    from Cryptodome.Util.Padding import pad  # noqa: PLC0415

    cipher = AES.new(_key(node_secret), AES.MODE_CBC, iv)
    return f"{iv.hex()}:{cipher.encrypt(pad(text.encode(), _BLOCK)).hex()}"


def decipher(stored: str, node_secret: str) -> str:
    """The text in what CHT stored. PermanentError where it is none of CHT's, or made under another secret."""
    from Cryptodome.Cipher import AES  # noqa: PLC0415 - see above
    from Cryptodome.Util.Padding import unpad  # noqa: PLC0415

    try:
        iv, ciphertext = (bytes.fromhex(part) for part in stored.split(":"))
        return unpad(AES.new(_key(node_secret), AES.MODE_CBC, iv).decrypt(ciphertext), _BLOCK).decode()
    except ValueError:
        # Without its cause: a wrong secret brings forth bytes that an error of Python's would show.
        raise PermanentError("it is not in CHT's format, or enciphered under another secret of CouchDB") from None


def _key(node_secret: str) -> bytes:
    """The secret's bytes, repeated to 32 and cut there."""
    secret = node_secret.encode()
    if not secret:
        raise PermanentError("CouchDB's secret is empty")
    return (secret * (_KEY_BYTES // len(secret) + 1))[:_KEY_BYTES]
