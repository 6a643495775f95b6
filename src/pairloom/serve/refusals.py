"""Why a request is not served: one status, one sentence."""

from __future__ import annotations


class ServeFault(ValueError):
    """The page cannot be served as asked: an address, a limit or a name is wrong; one sentence."""


class Refused(Exception):
    """A request that is not served: the status, a sentence, and when it may be tried again."""

    def __init__(self, status: int, sentence: str, *, retry_seconds: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_seconds = status, sentence, retry_seconds


class Superseded(Exception):
    """A newer drawing of the client has taken the place of this one: there is nothing to answer."""


class ClientGone(Exception):
    """Whoever asked has closed the connection; nobody reads an answer."""
