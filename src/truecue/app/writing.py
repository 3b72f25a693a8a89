"""Everything that changes something; each write carries the token of a page."""

from asyncio import sleep
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from truecue.app import security
from truecue.app.pages import directions, judge, labels
from truecue.app.security import PASS, cookie
from truecue.app.site import NAME, ORIGINAL, Site
from truecue.audit.verdicts import check_person
from truecue.errors import DataError

_YEAR = 365


class Writing:
    """The answers to everything that changes something.

    Args:
        site: the audit, and who may see it.
    """

    def __init__(self, site: Site):
        self.site = site

    def writes(self, app: FastAPI) -> None:
        """Everything that changes something; each needs the token of a page."""
        app.post("/judge/{c:int}/{f:int}")(self.answer)
        app.post("/who")(self.set_name)
        app.post("/rows")(self.set_rows)
        app.post("/undo")(self.undo)
        app.post("/gold")(self.set_gold)
        app.post("/gold/remove")(self.remove_gold)
        app.post("/measure")(self.measure)
        app.post("/labels")(self.review)
        app.post("/directions")(self.judge_direction)
        app.post("/directions/undo")(self.undo_direction)
        app.post("/verdicts")(self.read_csv)
        app.post("/login")(self.login)

    def answer(
        self, request: Request, c: int, f: int, token: Annotated[str, Form()] = "",
        answer: Annotated[str, Form()] = "", confidence: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "", started: Annotated[float, Form()] = 0.0,
        action: Annotated[Literal["submit", "skip"], Form()] = "submit",
    ) -> Response:  # fmt: skip
        """Store an answer and go on; one that is not complete comes back with what it lacks."""
        name = self.site.name(request)
        if not name:
            return RedirectResponse("/judge", 303)
        form = judge.Form(answer=answer, confidence=confidence, reason=reason, started=started)
        missing = judge.lacks(form) if action == "submit" else []
        stale = not self.site.gate.may_write(request.state.session, token)
        if stale or missing:
            original = request.cookies.get(ORIGINAL) == "1"
            view = judge.question(
                self.site.source, name, c, f, original=original, form=form, missing=missing
            )
            return self.site.html(
                "judge", request, 403 if stale else 422, page=view, stale_form=stale
            )
        self.site.source.verdicts.add(judge.judgement(self.site.source, name, c, f, form, action))
        return RedirectResponse("/judge", 303)

    def set_name(
        self,
        request: Request,
        name: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:
        """Remember who judges, in this browser."""
        self.site.check(request, token)
        name = judge.clean_name(name)
        check_person(name)
        response = RedirectResponse("/judge", 303)
        response.headers.append("set-cookie", cookie(NAME, quote(name), _YEAR if name else 0))
        return response

    def set_rows(
        self, request: Request, original: Annotated[bool, Form()] = False,
        token: Annotated[str, Form()] = "", back: Annotated[str, Form()] = "/judge",
    ) -> Response:  # fmt: skip
        """Show the rows of the study, or the least activating images as well."""
        self.site.check(request, token)
        response = RedirectResponse(_local(back), 303)
        response.headers.append("set-cookie", cookie(ORIGINAL, "1" if original else "0", _YEAR))
        return response

    def undo(self, request: Request, token: Annotated[str, Form()] = "") -> Response:
        """Take back this person's last answer and ask again."""
        self.site.check(request, token)
        pair = self.site.source.undo(self.site.name(request))
        return RedirectResponse(f"/judge/{pair[0]}/{pair[1]}" if pair else "/judge", 303)

    def set_gold(
        self, request: Request, c: Annotated[int, Form()], f: Annotated[int, Form()],
        answer: Annotated[str, Form()], token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Say the right answer about a feature, to check annotators by."""
        self.site.check(request, token)
        self.site.source.verdicts.set_gold(c, f, answer)  # type: ignore[arg-type]
        return RedirectResponse(f"/class/{c}/feature/{f}", 303)

    def remove_gold(
        self, request: Request, c: Annotated[int, Form()], f: Annotated[int, Form()],
        token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """No longer check annotators by a feature."""
        self.site.check(request, token)
        self.site.source.verdicts.remove_gold(c, f)
        return RedirectResponse(f"/class/{c}/feature/{f}", 303)

    def measure(
        self, request: Request, token: Annotated[str, Form()] = "",
        back: Annotated[str, Form()] = "/bias",
    ) -> Response:  # fmt: skip
        """Rank all images by the verdicts and measure gaps."""
        self.site.check(request, token)
        self.site.source.measure()
        return RedirectResponse(_local(back), 303)

    def review(
        self, request: Request, split: Annotated[str, Form()], image: Annotated[int, Form()],
        finding: Annotated[str, Form()], token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Store what a person says about a label."""
        self.site.check(request, token)
        name = self.site.name(request)
        if not name:
            return RedirectResponse("/judge", 303)
        known = list(labels.suspect_ids(self.site.source, self.site.source.measured(split)))
        if image not in known:
            raise DataError(f"image {image} is not up for review")
        self.site.source.reviews.add(split, image, name, finding)
        start = labels.page_of(known.index(image))
        page = f"&start={start}" if start else ""
        return RedirectResponse(f"/labels?split={split}{page}#image-{image}", 303)

    def judge_direction(
        self, request: Request, k: Annotated[int, Form()], answer: Annotated[str, Form()],
        probe: Annotated[int, Form()] = 0, note: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Store what a person says about a direction, and go on to the next one."""
        self.site.check(request, token)
        name = self.site.name(request)
        if not name:
            return RedirectResponse("/judge", 303)
        found = directions.check_answer(self.site.source, probe, k, answer)
        note = note.strip()[: directions.LONGEST_NOTE]
        self.site.source.directions.add(found.directions[k], name, answer, note)
        rows = directions.directions_page(self.site.source, probe, name).rows
        return _to_direction(probe, next((row.k for row in rows if row.current), k))

    def undo_direction(
        self, request: Request, probe: Annotated[int, Form()] = 0,
        token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Take back this person's last answer about a direction of a folder."""
        self.site.check(request, token)
        found = self.site.source.probed(probe)
        among = {found.directions[k].key: k for k in found.shown}
        key = self.site.source.directions.undo(self.site.name(request), list(among))
        return _to_direction(probe, among.get(key or "", found.shown[0]))

    def read_csv(
        self, request: Request, file: UploadFile, token: Annotated[str, Form()] = ""
    ) -> Response:
        """Add the answers of a CSV file, all or none."""
        self.site.check(request, token)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "verdicts.csv"
            path.write_bytes(file.file.read())
            try:
                n = self.site.source.verdicts.read_csv(path)
            except DataError as error:
                said = str(error).replace(str(path), judge.clean_name(file.filename or "the file"))
                raise DataError(said) from None
        return RedirectResponse(f"/agreement?read={n}", 303)

    async def login(
        self, request: Request, password: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Let a browser in that knows the password."""
        self.site.check(request, token)
        if not self.site.gate.is_password(password):
            await sleep(security.PATIENCE)
            return self.site.html("login", request, 401, wrong=True)
        response = RedirectResponse("/classes", 303)
        response.headers.append("set-cookie", cookie(PASS, self.site.gate.proof()))
        return response


def _to_direction(probe: int, k: int) -> Response:
    return RedirectResponse(f"/directions{f'?probe={probe}' if probe else ''}#direction-{k}", 303)


def _local(path: str) -> str:
    """An address of this app, whatever a form says."""
    return path if path.startswith("/") and path[1:2] not in {"/", "\\"} else "/classes"
