"""Describes network errors for an operator, without the names of classes.

The text of aiohttp's errors contains internal names, such as `ssl:default`, and may quote a server's answer.
"""

import os

import aiohttp


def in_words(error: BaseException) -> str:
    """`error`: aiohttp's, or the operating system's."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return f"no TLS with {error.host}:{error.port}: {_tls(error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} has no address"
        case aiohttp.ClientConnectorError():
            return f"no connection to {error.host}:{error.port}: {_reason(error.os_error)}"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers HTTP {error.status}"
        case aiohttp.InvalidURL():
            return "the address cannot be used"
        case aiohttp.ClientResponseError():
            return "the server does not speak HTTP, or sends malformed HTTP"
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case OSError() if error.strerror:
            return f"the connection failed: {_reason(error)}"
        case _:
            return "the connection failed"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or "no reason is known"


def _tls(error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or "it is refused")
