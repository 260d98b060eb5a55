"""A body to plain data: JSON that is sound, not too large and not too deep. Nothing is known of its fields here."""

from __future__ import annotations

from typing import Any

import msgspec

from depthrank.errors import DepthrankError, FieldProblem, RequestError
from depthrank.errors.types import ProblemsError
from depthrank.schema.collect import describe
from depthrank.schema.request import Limits

Plain = dict[str, Any]


class MalformedBodyError(DepthrankError):
    """The body is not a JSON object, or nests too deep (HTTP 400)."""


class TooLargeError(ProblemsError):
    """The body, or a list in it, is above a limit (HTTP 413)."""


def decode_json(body: bytes, limits: Limits) -> Plain:
    """The JSON object in ``body``.

    Raises TooLargeError, MalformedBodyError, or RequestError where a number fits no machine type.
    """
    check_body_size(len(body), limits)
    plain = _parse(body)
    # Brackets bound the depth, so most bodies need no walk.
    if body.count(b"[") + body.count(b"{") > limits.max_depth:
        check_depth(plain, limits.max_depth)
    if not isinstance(plain, dict):
        raise MalformedBodyError(f"the body must be a JSON object, such as {{...}}; found {describe(plain)}")
    return plain


def check_body_size(num_bytes: int, limits: Limits) -> None:
    """Raises TooLargeError where a body of that size is not let in."""
    if num_bytes > limits.max_body_bytes:
        problem = FieldProblem("$", f"{num_bytes:,} bytes or more", f"at most {limits.max_body_bytes:,} bytes")
        raise TooLargeError("the body is too large", [problem])


def check_length(num_values: int, most: int, path: str) -> None:
    """Raises TooLargeError where a list is longer than the limit."""
    if num_values > most:
        problem = FieldProblem(path, f"{num_values:,} values", f"at most {most:,}", "send them in several requests")
        raise TooLargeError("the body holds too many values", [problem])


def _parse(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError as error:  # sound JSON, but a number out of range
        message, _, path = str(error).partition(" - at ")
        found = "a number that is too large"
        raise RequestError(
            "a number is out of range", [FieldProblem(path.strip("`") or "$", found, "a 64-bit number", message)]
        ) from None
    except msgspec.DecodeError as error:
        raise MalformedBodyError(f"the body is not JSON: {error}{_hint(body, str(error))}") from None
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MalformedBodyError("the body nests too deep") from None


def _hint(body: bytes, message: str) -> str:
    if not body.strip():
        return "; the body is empty"
    position = message.rpartition("(byte ")[2].rstrip(")")
    if position.isdigit() and body[int(position) : int(position) + 1] in (b"N", b"I"):
        return "; JSON has no NaN and no Infinity: send null where a value is missing"
    return ""


def check_depth(plain: Any, most: int) -> None:
    """Raises MalformedBodyError where lists and objects nest more than ``most`` deep; level by level, no recursion."""
    level = [plain]
    for _ in range(most):
        if not level:
            return
        containers = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [child for children in containers for child in children if isinstance(child, (dict, list))]
    if level:
        raise MalformedBodyError(f"the body nests too deep: at most {most} levels of lists and objects")
