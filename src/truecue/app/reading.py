"""Everything that is read: pages, each at two addresses, and the files that they show."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from truecue.app.pages import (
    agreement,
    bias,
    directions,
    feature,
    judge,
    labels,
    others,
    overview,
    strips,
)
from truecue.app.pages.base import View
from truecue.app.pictures import Pictures
from truecue.app.plots import Plots
from truecue.app.site import ORIGINAL, Site
from truecue.engine.device import Device
from truecue.errors import DataError
from truecue.report.sheet import media_type

_SVG = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "cache-control": "no-cache",
}


class Reading:
    """The answers to everything that only reads.

    Args:
        site: the audit, and who may see it.
        device: where pictures are computed.
    """

    def __init__(self, site: Site, device: Device):
        self.site = site
        self.pictures, self.plots = Pictures(site.source, device), Plots(site.source)

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
        self._page(app, "/directions", "directions", self.along, directions.DirectionsPage)
        app.get("/judge", include_in_schema=False)(self.next_question)
        app.get("/login", include_in_schema=False)(self.login_page)

    def all_classes(
        self, q: str = "", sort: overview.Sort = "spurious", start: int = 0, split: str = ""
    ) -> overview.Overview:
        """All classes."""
        return overview.overview(self.site.source, q[:200], sort, start, split)

    def ranked(
        self, c: int, split: str = "", by: int | None = None, start: int = 0, rank: int = 0
    ) -> strips.Strip:
        """The images of a class in order of a cue."""
        return strips.strip(self.site.source, c, split, by, rank - 1 if rank > 0 else start)

    def one_feature(self, c: int, f: int) -> feature.FeaturePage:
        """One feature of one class."""
        return feature.feature_page(self.site.source, c, f)

    def ask(self, request: Request, c: int, f: int) -> judge.Question:
        """The screen for judging one feature."""
        original = request.cookies.get(ORIGINAL) == "1"
        return judge.question(self.site.source, self.site.name(request), c, f, original=original)

    def annotators(self) -> agreement.AgreementPage:
        """Whether annotators agree."""
        return agreement.agreement_page(self.site.source)

    def costs(self, split: str = "") -> bias.BiasPage:
        """What spurious cues cost."""
        return bias.bias_page(self.site.source, split)

    def several_models(self, split: str = "", a: int = 0, b: int = 1) -> bias.ModelsPage:
        """How alike the gaps of several models are."""
        return bias.models_page(self.site.source, split, a, b)

    def repairs(self, split: str = "") -> others.RepairPage:
        """Repairs of the model."""
        return others.repair_page(self.site.source, split)

    def suspicious(self, request: Request, split: str = "", start: int = 0) -> labels.LabelsPage:
        """Suspicious labels."""
        return labels.labels_page(self.site.source, split, self.site.name(request), start)

    def candidates(self) -> others.CuesPage:
        """Candidate cues."""
        return others.cues_page(self.site.source)

    def along(self, request: Request, probe: int = 0) -> directions.DirectionsPage:
        """Directions of a generator, to judge."""
        return directions.directions_page(self.site.source, probe, self.site.name(request))

    def next_question(self, request: Request, skipped: bool = False) -> Response:
        """On to what this person has not answered yet."""
        name = self.site.name(request)
        if not name:
            return self.site.html(
                "name", request, people=[who for who, *_ in self.site.source.people()]
            )
        pair = judge.next_pair(self.site.source, name, skipped=skipped)
        if pair is None:
            return self.site.html("done", request, progress=judge.progress(self.site.source, name),
                              is_stale=self.site.source.is_stale())  # fmt: skip
        return RedirectResponse(f"/judge/{pair[0]}/{pair[1]}", 303)

    def login_page(self, request: Request) -> Response:
        """The form for the password."""
        return self.site.html("login", request)

    def _page(
        self, app: FastAPI, path: str, template: str, build: Callable[..., View], kind: type[View]
    ) -> None:
        """One page at two addresses."""
        depends = Depends(build)

        def people(request: Request, view: Any = depends) -> Response:
            if template == "judge" and not self.site.name(request):
                return RedirectResponse("/judge", 303)
            return self.site.html(template, request, page=view)

        def programs(view: Any = depends) -> Response:
            return Response(view.model_dump_json(), media_type="application/json")

        about = (build.__doc__ or "").strip()
        app.get(path, response_class=HTMLResponse, summary=about, name=template)(people)
        app.get(f"{path}.json", response_model=kind, summary=about, name=f"{template}.json")(
            programs
        )

    def files(self, app: FastAPI) -> None:
        """Everything that pages refer to."""
        app.get("/image/{split}/{i:int}")(self.image)
        app.get("/picture/{row}/{c:int}/{f:int}/{i:int}")(self.picture)
        app.get("/crop/{split}/{i:int}")(self.crop)
        app.get("/plot/{name}.svg")(self.plot)
        app.get("/picture/direction/{probe:int}/{k:int}")(self.moved)
        app.get("/plot/direction/{probe:int}/{k:int}")(self.logits)
        app.get("/verdicts.csv")(self.verdicts_csv)
        app.get("/labels.csv")(self.labels_csv)
        app.get("/directions.csv")(self.directions_csv)

    def image(self, split: str, i: int) -> Response:
        """One image, by its position in a split."""
        return _picture(self.pictures.image(split, i))

    def picture(self, row: Literal["heat", "amplified"], c: int, f: int, i: int) -> Response:
        """One of the images that a feature is shown with: heat map, or amplified."""
        return _picture(self.pictures.of_feature(row, c, f, i))

    def crop(self, split: str, i: int) -> Response:
        """The part of a suspicious image around its class's core features."""
        suspects = labels.suspect_ids(self.site.source, self.site.source.measured(split))
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

    def moved(self, probe: int, k: int) -> Response:
        """Images that were moved along a direction."""
        return _picture(self.site.source.probed(probe).file(k, "png"), keep=False)

    def logits(self, probe: int, k: int) -> Response:
        """Logits over steps along a direction."""
        text = self.site.source.probed(probe).file(k, "svg")
        return Response(text, media_type="image/svg+xml", headers=_SVG)

    def verdicts_csv(self) -> Response:
        """All answers, in the columns of the published file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "verdicts.csv"
            self.site.source.verdicts.write_csv(path)
            return _table(path.read_text(encoding="utf-8"), "verdicts.csv")

    def labels_csv(self) -> Response:
        """All answers about labels."""
        return _table(self.site.source.reviews.csv(), "labels.csv")

    def directions_csv(self) -> Response:
        """All answers about directions."""
        return _table(self.site.source.directions.csv(), "directions.csv")


def _picture(file: bytes, *, keep: bool = True) -> Response:
    held = "private, max-age=31536000, immutable" if keep else "no-cache"
    return Response(file, media_type=media_type(file), headers={"cache-control": held})


def _table(text: str, name: str) -> Response:
    given = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=given)
