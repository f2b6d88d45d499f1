"""Errors as clients of OpenAI's API read them: a status and `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from typing import Any

from smalti.editing.regions import NothingChosen
from smalti.errors import SmaltiError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    507: "server_error",
}
_LONGEST = 300
# Arguments that a request has under another name.
_FIELDS = {"num_images_per_prompt": "n"}


class ApiError(Exception):
    """A request that is refused or failed.

    Attributes:
        status: HTTP status.
        message: one line of at most 300 characters, without paths of the server.
        code: a word for programs, such as "invalid_value".
        param: the field at fault, or None.
        headers: headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        line = encodable(" ".join(message.split()))
        self.message = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
        super().__init__(self.message)
        self.status, self.code, self.headers = status, code, headers or {}
        self.param = None if param is None else encodable(param)

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }


def encodable(text: str) -> str:
    """Return a text that an answer can hold: what a client wrote may have lone surrogates, which no codec takes."""
    return text.encode("utf-8", "replace").decode()


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """Return the error of a wrong field."""
    return ApiError(400, message, code, param)


def from_smalti(error: SmaltiError) -> ApiError:
    """Return the error of a value that Smalti refuses, with the field's name.

    Example:
        >>> from_smalti(SmaltiError("top_p must be above 0, not 0", argument="top_p")).body()["error"]["param"]
        'top_p'
    """
    param = error.argument if error.argument is None else _FIELDS.get(error.argument, error.argument)
    code = "nothing_chosen" if isinstance(error, NothingChosen) else "invalid_value"
    return ApiError(400, error.named(param) if param else str(error), code, param)


def not_found(what: str, name: str) -> ApiError:
    """Return the error of something that does not exist, or belongs to somebody else."""
    return ApiError(404, f"{what} {name!r} does not exist", "not_found")


def expired(what: str) -> ApiError:
    """Return the error of something that existed and is gone."""
    return ApiError(410, f"{what} has expired or was deleted", "expired")


def not_kept() -> ApiError:
    """Return the error of a store that cannot be written; trying again at once would not help."""
    message = "the server cannot keep jobs and images: its disk is full, or cannot be written"
    return ApiError(507, message, "storage_full", headers={"x-should-retry": "false"})


def internal() -> ApiError:
    """Return the error of a fault of the server, which says nothing of its inside; trying again would not help."""
    message = (
        "the server failed to answer this request; its log has the reason under the request's x-request-id"
    )
    return ApiError(500, message, "internal_error", headers={"x-should-retry": "false"})
