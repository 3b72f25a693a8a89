"""What all addresses share: the audit, who asks, how pages are filled in, and errors."""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from truecue.app.pages import judge
from truecue.app.render import environment
from truecue.app.security import Gate
from truecue.app.source import Source
from truecue.audit.verdicts import AUTOMATIC
from truecue.errors import ConfigError, DataError, StorageError, TruecueError

NAME, ORIGINAL = "truecue_name", "truecue_original"
"""Cookies: who judges, and whether the rows are those of the study."""
_COUNT = re.compile("[0-9]{1,9}")
_LOG = logging.getLogger(__name__)


class Refused(Exception):
    """A write without the token of the page that it should come from."""


class Site:
    """One audit, and who may see it.

    Args:
        source: the audit with its images.
        gate: decides who is let in.
    """

    def __init__(self, source: Source, gate: Gate):
        self.source, self.gate = source, gate
        self.templates = environment()

    def name(self, request: Request) -> str:
        """Who judges in this browser; empty: nobody has said, or it is no name for a person."""
        name = judge.clean_name(unquote(request.cookies.get(NAME, "")))
        return "" if name in AUTOMATIC else name

    def check(self, request: Request, token: str) -> None:
        """Refuse a write that does not carry the token of its browser.

        Raises:
            Refused: it does not.
        """
        if not self.gate.may_write(request.state.session, token):
            raise Refused

    def html(self, template: str, request: Request, code: int = 200, **values: Any) -> Response:
        """A page."""
        read = request.query_params.get("read", "")
        text = self.templates.get_template(f"{template}.html.j2").render(
            source=self.source, path=request.scope["path"],
            token=self.gate.token(request.state.session),
            me=self.name(request), tag=self.source.tag, locked=self.gate.password is not None,
            query=request.url.query, read=int(read) if _COUNT.fullmatch(read) else None, **values,
        )  # fmt: skip
        return HTMLResponse(text, code)

    def errors(self, app: FastAPI) -> None:
        """What is answered when something goes wrong: a sentence, and what to do."""

        def told(request: Request, status: int, message: str) -> Response:
            if request.scope["path"].endswith(".json"):
                return JSONResponse({"error": message}, status)
            if request.scope["path"].startswith(("/image", "/picture", "/crop", "/plot")):
                return Response(message, status, media_type="text/plain")
            return self.html("error", request, status, status=status, message=message)

        def ours(request: Request, error: Exception) -> Response:
            if isinstance(error, StorageError):
                _LOG.error("%s", error)
                return told(request, 507, str(error))
            unknown = isinstance(error, DataError | ConfigError)
            status = 404 if unknown and request.method == "GET" else 422
            return told(request, status, str(error))

        def refused(request: Request, _: Exception) -> Response:
            return told(request, 403, "This form is from an earlier start of the app, or not from"
                        " this app at all. Nothing was changed. Open the page again and repeat"
                        " what you did.")  # fmt: skip

        def invalid(request: Request, error: Exception) -> Response:
            assert isinstance(error, RequestValidationError)
            wrong = ", ".join(str(e["loc"][-1]) for e in error.errors())
            return told(request, 422, f"The address or the form has values that cannot be used:"
                        f" {wrong}.")  # fmt: skip

        def http(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            message = "There is no such page." if error.status_code == 404 else str(error.detail)
            return told(request, error.status_code, message)

        app.add_exception_handler(TruecueError, ours)
        app.add_exception_handler(Refused, refused)
        app.add_exception_handler(RequestValidationError, invalid)
        app.add_exception_handler(HTTPException, http)
