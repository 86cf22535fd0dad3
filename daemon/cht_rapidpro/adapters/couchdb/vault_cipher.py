"""CHT's encryption of credentials: AES-256-CBC with a key made of CouchDB's own secret (docs/cht.md#credentials).

The format is exactly CHT's, so that each side can read what the other wrote. The library is imported at the first use,
which therefore has to happen in a thread: without the vault it takes no memory.
"""

import os
from typing import Final

from cht_rapidpro.errors import PermanentError

_KEY_BYTES: Final = 32
_BLOCK: Final = 16


def encipher(text: str, node_secret: str) -> str:
    """Returns `text` as CHT stores it: hex of a new random IV, a colon, hex of the ciphertext."""
    return encipher_with(os.urandom(_BLOCK), text, node_secret)


def encipher_with(iv: bytes, text: str, node_secret: str) -> str:
    """Like `encipher`, with an IV of 16 bytes, which must be used only once: a second use shows which texts begin
    equally.
    """
    from Cryptodome.Cipher import AES  # noqa: PLC0415 - see above
    from Cryptodome.Util.Padding import pad  # noqa: PLC0415

    cipher = AES.new(_key(node_secret), AES.MODE_CBC, iv)
    return f"{iv.hex()}:{cipher.encrypt(pad(text.encode(), _BLOCK)).hex()}"


def decipher(stored: str, node_secret: str) -> str:
    """Returns the text in a value that CHT stored. Raises PermanentError for another format or another secret."""
    from Cryptodome.Cipher import AES  # noqa: PLC0415 - see above
    from Cryptodome.Util.Padding import unpad  # noqa: PLC0415

    try:
        iv, ciphertext = (bytes.fromhex(part) for part in stored.split(":"))
        return unpad(AES.new(_key(node_secret), AES.MODE_CBC, iv).decrypt(ciphertext), _BLOCK).decode()
    except ValueError:
        # Without the cause: Python's error would show bytes of the value.
        raise PermanentError("it is not in CHT's format, or enciphered under another secret of CouchDB") from None


def _key(node_secret: str) -> bytes:
    """Returns the secret's bytes, repeated and cut to 32."""
    secret = node_secret.encode()
    if not secret:
        raise PermanentError("CouchDB's secret is empty")
    return (secret * (_KEY_BYTES // len(secret) + 1))[:_KEY_BYTES]
