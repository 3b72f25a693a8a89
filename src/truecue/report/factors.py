"""The page of how well directions match known factors, and its twin in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truecue.report import facts
from truecue.report.directions import facts_of
from truecue.report.page import environment
from truecue.report.probe_figures import rescoring
from truecue.report.report import twin_of, write_page
from truecue.report.svg import data_address

MEANING = {
    "beta_vae": ("BetaVAE", "how often pairs of images that agree in one factor are told by which"),
    "factor_vae": (
        "FactorVAE",
        "how often the code that varies least tells the shared factor",
    ),
    "mig": ("MIG", "how much more the best code knows of a factor than the second best"),
    "disentanglement": ("DCI, disentanglement", "how far each code serves one factor"),
    "completeness": ("DCI, completeness", "how far each factor needs one code"),
    "informativeness": ("DCI, informativeness", "accuracy of predicting factors from all codes"),
    "dci": ("DCI", "the mean of these three"),
    "sap": ("SAP", "how much better the best code predicts a factor than the second best"),
}
"""For each metric its title and what it says; each is in [0, 1], the larger the better."""


def write_factors(told: Mapping[str, Any], out: Path, about: Mapping[str, Any]) -> Path:
    """Write `metrics.html`, `metrics.json` and `importance.svg` into a folder.

    Args:
        told: what `known_factors` says, as plain values.
        out: the folder; made if it does not exist.
        about: how it was made, for page and JSON file.

    Returns:
        The path of the page.

    Raises:
        StorageError: a file could not be written.
    """
    names, factors = told["directions"]["names"], told["factors"]
    follows = followed(told["importance"], factors)
    one = sum(share > 0.5 for _, share in follows)
    picture = rescoring({"": told["importance"]}, {"": names}, factors)
    page = environment().get_template("factors.html.j2").render(
        headline=f"{one} of {len(names)} directions follow mostly one factor",
        tone="good" if one == len(names) else "unclear" if one else "bad",
        created=facts.moment(about.get("created")),
        rows=[(*MEANING[name], f"{told['metrics'][name]:.3f}") for name in MEANING],
        picture=data_address(picture),
        follows=[
            (name, factor, f"{share:.0%}")
            for name, (factor, share) in zip(names, follows, strict=True)
        ],
        absent=[factor for factor in factors if factor not in {name for name, _ in follows}],
        error=f"{told['encoder']['error']:.2f}",
        facts=facts_of(about),
    )  # fmt: skip
    twin = twin_of({**told, "about": dict(about)})
    return write_page(out / "metrics.html", page, "metrics.json", twin, {"importance.svg": picture})


def followed(
    importance: Sequence[Sequence[float]], factors: Sequence[str]
) -> list[tuple[str, float]]:
    """For each code the factor that it matters most for, and its share of the code's importance."""
    found = []
    for row in importance:
        best = max(range(len(row)), key=row.__getitem__)
        found.append((factors[best], row[best] / max(sum(row), 1e-12)))
    return found
