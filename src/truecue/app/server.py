"""The server: addresses of pages and pictures, what may be written, and how it starts.

Every page is there twice: `/classes` for people and `/classes.json` with the same values.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from truecue.app.pages import agreement, bias, feature, judge, labels, others, overview, strips
from truecue.app.pages.base import View
from truecue.app.pictures import Pictures
from truecue.app.plots import Plots
from truecue.app.render import environment
from truecue.app.security import PASS, Gate, Guard, cookie
from truecue.app.source import Source
from truecue.engine.device import Device
from truecue.errors import ConfigError, DataError, StorageError, TruecueError
from truecue.report.sheet import media_type

HERE = Path(__file__).parent
NAME, ORIGINAL = "truecue_name", "truecue_original"
"""Cookies: who judges, and whether the rows are those of the study."""
_LOG = logging.getLogger(__name__)
_PATIENCE = 1.0  # seconds after a wrong password
_YEAR = 365
_SVG = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "cache-control": "no-cache",
}


class Refused(Exception):
    """A write without the token of the page that it should come from."""


def make_app(source: Source, gate: Gate | None = None, *, device: Device | None = None) -> FastAPI:
    """The app of one audit.

    Args:
        source: the audit with its images.
        gate: decides who is let in; None: this machine, without a password.
        device: where pictures are computed; None: the best there is.
    """
    gate = gate or Gate()
    app = FastAPI(title="truecue", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, gate=gate)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    site = _Site(source, gate, Pictures(source, device or Device()), Plots(source))
    site.pages(app)
    site.files(app)
    site.writes(app)
    site.errors(app)
    return app


def serve(
    source: Source, gate: Gate, *, port: int = 8000, device: Device | None = None,
    ready: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Serve an audit until the process is stopped.

    Args:
        source: the audit with its images.
        gate: decides who is let in, and names the address to listen at.
        port: to listen at.
        device: where pictures are computed.
        ready: called once the server listens.

    Raises:
        ConfigError: the port is taken or the address is not this machine's.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in gate.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((gate.host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen at {gate.host}, port {port}: {error.strerror}; choose another --port"
        ) from None
    app = make_app(source, gate, device=device)
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, date_header=False, proxy_headers=False
    )
    server = uvicorn.Server(config)
    if ready is not None:
        ready()
    server.run(sockets=[listening])


class _Site:
    """The answers to all addresses."""

    def __init__(self, source: Source, gate: Gate, pictures: Pictures, plots: Plots):
        self.source, self.gate, self.pictures, self.plots = source, gate, pictures, plots
        self.templates = environment()

    # --- pages

    def pages(self, app: FastAPI) -> None:
        """Everything that is read."""
        app.get("/", include_in_schema=False)(lambda: RedirectResponse("/classes", 303))
        self._page(app, "/classes", "classes", self.all_classes, overview.Overview)
        self._page(app, "/class/{c:int}", "strip", self.ranked, strips.Strip)
        self._page(
            app, "/class/{c:int}/feature/{f:int}", "feature", self.one_feature, feature.FeaturePage
        )
        self._page(app, "/judge/{c:int}/{f:int}", "judge", self.ask, judge.Question)
        self._page(app, "/agreement", "agreement", self.annotators, agreement.AgreementPage)
        self._page(app, "/bias", "bias", self.costs, bias.BiasPage)
        self._page(app, "/models", "models", self.several_models, bias.ModelsPage)
        self._page(app, "/repair", "repair", self.repairs, others.RepairPage)
        self._page(app, "/labels", "labels", self.suspicious, labels.LabelsPage)
        self._page(app, "/cues", "cues", self.candidates, others.CuesPage)
        app.get("/judge", include_in_schema=False)(self.next_question)
        app.get("/login", include_in_schema=False)(self.login_page)

    def all_classes(
        self, q: str = "", sort: overview.Sort = "spurious", start: int = 0, split: str = ""
    ) -> overview.Overview:
        """All classes."""
        return overview.overview(self.source, q[:200], sort, start, split)

    def ranked(
        self, c: int, split: str = "", by: int | None = None, start: int = 0, rank: int = 0
    ) -> strips.Strip:
        """The images of a class in order of a cue."""
        return strips.strip(self.source, c, split, by, rank - 1 if rank > 0 else start)

    def one_feature(self, c: int, f: int) -> feature.FeaturePage:
        """One feature of one class."""
        return feature.feature_page(self.source, c, f)

    def ask(self, request: Request, c: int, f: int) -> judge.Question:
        """The screen for judging one feature."""
        original = request.cookies.get(ORIGINAL) == "1"
        return judge.question(self.source, self.name(request), c, f, original=original)

    def annotators(self) -> agreement.AgreementPage:
        """Whether annotators agree."""
        return agreement.agreement_page(self.source)

    def costs(self, split: str = "") -> bias.BiasPage:
        """What spurious cues cost."""
        return bias.bias_page(self.source, split)

    def several_models(self, split: str = "", a: int = 0, b: int = 1) -> bias.ModelsPage:
        """How alike the gaps of several models are."""
        return bias.models_page(self.source, split, a, b)

    def repairs(self) -> others.RepairPage:
        """Repairs of the model."""
        return others.repair_page(self.source)

    def suspicious(self, request: Request, split: str = "") -> labels.LabelsPage:
        """Suspicious labels."""
        return labels.labels_page(self.source, split, self.name(request))

    def candidates(self) -> others.CuesPage:
        """Candidate cues."""
        return others.cues_page(self.source)

    def next_question(self, request: Request, skipped: bool = False) -> Response:
        """On to what this person has not answered yet."""
        name = self.name(request)
        if not name:
            return self._html("name", request, people=[who for who, *_ in self.source.people()])
        pair = judge.next_pair(self.source, name, skipped=skipped)
        if pair is None:
            return self._html("done", request, progress=judge.progress(self.source, name),
                              is_stale=self.source.is_stale())  # fmt: skip
        return RedirectResponse(f"/judge/{pair[0]}/{pair[1]}", 303)

    def login_page(self, request: Request) -> Response:
        """The form for the password."""
        return self._html("login", request)

    def _page(
        self, app: FastAPI, path: str, template: str, build: Callable[..., View], kind: type[View]
    ) -> None:
        """One page at two addresses."""
        depends = Depends(build)

        def people(request: Request, view: Any = depends) -> Response:
            if template == "judge" and not self.name(request):
                return RedirectResponse("/judge", 303)
            return self._html(template, request, page=view)

        def programs(view: Any = depends) -> Response:
            return Response(view.model_dump_json(), media_type="application/json")

        about = (build.__doc__ or "").strip()
        app.get(path, response_class=HTMLResponse, summary=about, name=template)(people)
        app.get(f"{path}.json", response_model=kind, summary=about, name=f"{template}.json")(
            programs
        )

    # --- pictures, figures, tables

    def files(self, app: FastAPI) -> None:
        """Everything that pages refer to."""
        app.get("/image/{split}/{i:int}")(self.image)
        app.get("/picture/{row}/{c:int}/{f:int}/{i:int}")(self.picture)
        app.get("/crop/{split}/{i:int}")(self.crop)
        app.get("/plot/{name}.svg")(self.plot)
        app.get("/verdicts.csv")(self.verdicts_csv)
        app.get("/labels.csv")(self.labels_csv)

    def image(self, split: str, i: int) -> Response:
        """One image, by its position in a split."""
        return _picture(self.pictures.image(split, i))

    def picture(self, row: Literal["heat", "amplified"], c: int, f: int, i: int) -> Response:
        """One of the images that a feature is shown with: heat map, or amplified."""
        return _picture(self.pictures.of_feature(row, c, f, i))

    def crop(self, split: str, i: int) -> Response:
        """The part of a suspicious image around its class's core features."""
        suspects = labels.suspect_ids(self.source, self.source.measured(split))
        if i not in suspects:
            raise DataError(f"image {i} is not up for review")
        return _picture(self.pictures.crop(split, suspects[i], i), keep=False)

    def plot(
        self, name: str, split: str = "", c: int | None = None, by: int | None = None,
        a: int | None = None, b: int | None = None,
    ) -> Response:  # fmt: skip
        """A figure."""
        given: dict[str, int | None] = {}
        if name == "histogram":
            if c is None:
                raise DataError("the histogram of which class?")
            given = {"c": c, "by": by}
        elif name == "pair":
            given = {"a": a or 0, "b": b or 0}
        text = self.plots.draw(name, split, **given)
        return Response(text, media_type="image/svg+xml", headers=_SVG)

    def verdicts_csv(self) -> Response:
        """All answers, in the columns of the published file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "verdicts.csv"
            self.source.verdicts.write_csv(path)
            return _table(path.read_text(encoding="utf-8"), "verdicts.csv")

    def labels_csv(self) -> Response:
        """All answers about labels."""
        return _table(self.source.reviews.csv(), "labels.csv")

    # --- writes

    def writes(self, app: FastAPI) -> None:
        """Everything that changes something; each needs the token of a page."""
        app.post("/judge/{c:int}/{f:int}")(self.answer)
        app.post("/who")(self.set_name)
        app.post("/rows")(self.set_rows)
        app.post("/undo")(self.undo)
        app.post("/gold")(self.set_gold)
        app.post("/measure")(self.measure)
        app.post("/labels")(self.review)
        app.post("/verdicts")(self.read_csv)
        app.post("/login")(self.login)

    def answer(
        self, request: Request, c: int, f: int, token: Annotated[str, Form()] = "",
        answer: Annotated[str, Form()] = "", confidence: Annotated[str, Form()] = "",
        reason: Annotated[str, Form()] = "", started: Annotated[float, Form()] = 0.0,
        action: Annotated[Literal["submit", "skip"], Form()] = "submit",
    ) -> Response:  # fmt: skip
        """Store an answer and go on; one that is not complete comes back with what it lacks."""
        name = self.name(request)
        if not name:
            return RedirectResponse("/judge", 303)
        form = judge.Form(answer=answer, confidence=confidence, reason=reason, started=started)
        missing = judge.lacks(form) if action == "submit" else []
        stale = not self.gate.may_write(request.state.session, token)
        if stale or missing:
            original = request.cookies.get(ORIGINAL) == "1"
            view = judge.question(
                self.source, name, c, f, original=original, form=form, missing=missing
            )
            return self._html("judge", request, 403 if stale else 422, page=view, stale_form=stale)
        self.source.verdicts.add(judge.judgement(self.source, name, c, f, form, action))
        return RedirectResponse("/judge", 303)

    def set_name(
        self,
        request: Request,
        name: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:
        """Remember who judges, in this browser."""
        self._check(request, token)
        name = judge.clean_name(name)
        response = RedirectResponse("/judge", 303)
        response.headers.append("set-cookie", cookie(NAME, quote(name), _YEAR if name else 0))
        return response

    def set_rows(
        self, request: Request, original: Annotated[bool, Form()] = False,
        token: Annotated[str, Form()] = "", back: Annotated[str, Form()] = "/judge",
    ) -> Response:  # fmt: skip
        """Show the rows of the study, or the least activating images as well."""
        self._check(request, token)
        response = RedirectResponse(_local(back), 303)
        response.headers.append("set-cookie", cookie(ORIGINAL, "1" if original else "0", _YEAR))
        return response

    def undo(self, request: Request, token: Annotated[str, Form()] = "") -> Response:
        """Take back this person's last answer and ask again."""
        self._check(request, token)
        pair = self.source.undo(self.name(request))
        return RedirectResponse(f"/judge/{pair[0]}/{pair[1]}" if pair else "/judge", 303)

    def set_gold(
        self, request: Request, c: Annotated[int, Form()], f: Annotated[int, Form()],
        answer: Annotated[str, Form()], token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Say the right answer about a feature, to check annotators by."""
        self._check(request, token)
        self.source.verdicts.set_gold(c, f, answer)  # type: ignore[arg-type]
        return RedirectResponse(f"/class/{c}/feature/{f}", 303)

    def measure(
        self, request: Request, token: Annotated[str, Form()] = "",
        back: Annotated[str, Form()] = "/bias",
    ) -> Response:  # fmt: skip
        """Rank all images by the verdicts and measure gaps."""
        self._check(request, token)
        self.source.measure()
        return RedirectResponse(_local(back), 303)

    def review(
        self, request: Request, split: Annotated[str, Form()], image: Annotated[int, Form()],
        finding: Annotated[str, Form()], token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Store what a person says about a label."""
        self._check(request, token)
        name = self.name(request)
        if not name:
            return RedirectResponse("/judge", 303)
        if image not in labels.suspect_ids(self.source, self.source.measured(split)):
            raise DataError(f"image {image} is not up for review")
        self.source.reviews.add(split, image, name, finding)
        return RedirectResponse(f"/labels?split={split}#image-{image}", 303)

    def read_csv(
        self, request: Request, file: UploadFile, token: Annotated[str, Form()] = ""
    ) -> Response:
        """Add the answers of a CSV file, all or none."""
        self._check(request, token)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "verdicts.csv"
            path.write_bytes(file.file.read())
            try:
                n = self.source.verdicts.read_csv(path)
            except DataError as error:
                said = str(error).replace(str(path), judge.clean_name(file.filename or "the file"))
                raise DataError(said) from None
        return RedirectResponse(f"/agreement?read={n}", 303)

    def login(
        self, request: Request, password: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        """Let a browser in that knows the password."""
        self._check(request, token)
        if not self.gate.is_password(password):
            time.sleep(_PATIENCE)
            return self._html("login", request, 401, wrong=True)
        response = RedirectResponse("/classes", 303)
        response.headers.append("set-cookie", cookie(PASS, self.gate.proof()))
        return response

    # --- what they share

    def name(self, request: Request) -> str:
        """Who judges in this browser; empty: nobody has said."""
        return judge.clean_name(unquote(request.cookies.get(NAME, "")))

    def _check(self, request: Request, token: str) -> None:
        if not self.gate.may_write(request.state.session, token):
            raise Refused

    def _html(self, template: str, request: Request, code: int = 200, **values: Any) -> Response:
        read = request.query_params.get("read", "")
        text = self.templates.get_template(f"{template}.html.j2").render(
            source=self.source, path=request.url.path, token=self.gate.token(request.state.session),
            me=self.name(request), tag=self.source.tag, locked=self.gate.password is not None,
            query=request.url.query, read=int(read) if read.isdigit() else None, **values,
        )  # fmt: skip
        return HTMLResponse(text, code)

    def errors(self, app: FastAPI) -> None:
        """What is answered when something goes wrong: a sentence, and what to do."""

        def told(request: Request, status: int, message: str) -> Response:
            if request.url.path.endswith(".json"):
                return JSONResponse({"error": message}, status)
            if request.url.path.startswith(("/image", "/picture", "/crop", "/plot")):
                return Response(message, status, media_type="text/plain")
            return self._html("error", request, status, status=status, message=message)

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


def _picture(file: bytes, *, keep: bool = True) -> Response:
    held = "private, max-age=31536000, immutable" if keep else "no-cache"
    return Response(file, media_type=media_type(file), headers={"cache-control": held})


def _table(text: str, name: str) -> Response:
    given = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=given)


def _local(path: str) -> str:
    """An address of this app, whatever a form says."""
    return path if path.startswith("/") and path[1:2] not in {"/", "\\"} else "/classes"
