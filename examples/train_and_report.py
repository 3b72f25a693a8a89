"""Train plainly and by DeNetDM on small coloured digits, and say what the report says.

    python examples/train_and_report.py [FOLDER]

Shortened so that it takes seconds: with so few epochs the branches hardly part. Leave `override`
and the sizes out for the real thing, or run `truecue demo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import truecue


def main(out: Path) -> None:
    """Train, print the accuracies on test images, and name the page."""
    data = truecue.Digits(train_size=1000, test_size=500).load(seed=0)
    method = truecue.DeNetDM().override({"experts.epochs": 4, "plan.epochs": 4})
    trained = truecue.train(method, data, out=out, seed=0)

    for name, model in trained.report["models"].items():
        print(f"{name} ({model['arch']}, trained on {model['labels_used']['training']})")
        for key in ("aligned", "conflicting", "worst_group"):
            found = model["test"][key]
            print(f"  {key:12} {found['value']:6.1%}  ({found['low']:.1%} to {found['high']:.1%})")
        for warning in model["warnings"]:
            print(f"  warning: {warning}")
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/example"))
