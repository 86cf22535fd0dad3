"""The errors that cross the borders between layers.

An adapter translates every foreign error into one of these, once, at its edge; nothing here derives from KeyError or
OSError, so that no `except` for another purpose catches them. The class tells whether to try again; the message says
what went wrong, where, and what to do, and never holds a message text, a full phone number or a secret.
"""


class GatewayError(Exception):
    """The base class of every error that this project raises on purpose."""


class ConfigError(GatewayError):
    """The configuration cannot be used as it is: the process ends with exit code 78."""


class UnusableError(GatewayError):
    """A place that this process needs cannot be used at present: it ends with exit code 1, and is started again."""


class TransientError(GatewayError):
    """The request had no effect, or may be repeated without harm: try again later.

    `retry_after`: seconds until another try makes sense, as the other side said, or None.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(GatewayError):
    """This one thing was refused for its content: repeating it would be refused again."""


class OperatorActionRequiredError(GatewayError):
    """The set-up is wrong (a bad token, a wrong URL, missing rights): nothing works until an operator acts.

    `about`: the subject, the same for every request that meets the problem, so that it is logged once.
    """

    def __init__(self, message: str, *, about: str) -> None:
        super().__init__(message)
        self.about = about


class DeniedError(OperatorActionRequiredError):
    """The other side refuses the password. The adapter limits how often the same password is tried again."""
