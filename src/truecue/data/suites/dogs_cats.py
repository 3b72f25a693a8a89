"""Dogs and cats whose fur is nearly always bright in the one and dark in the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from truecue.data.files import Progress
from truecue.data.sets import ArrayFile, Splits
from truecue.data.suites.base import Suite
from truecue.data.suites.listing import read_table
from truecue.data.suites.published import (
    check_counts,
    coded,
    columns_of,
    divided,
    labelled,
    read_column,
    read_files,
)
from truecue.data.suites.splitting import Ids, biased
from truecue.errors import DataError

CLASSES = ("cat", "dog")
FURS = ("bright", "dark")

_TABLE = "dogs_cats_color_128.parquet"
_ALIGNED = {"tb1": [[False, True], [True, False]], "tb2": [[True, False], [False, True]]}


class DogsCats(Suite):
    """Cat or dog? In training, the brightness of the fur says so too, almost always.

    Real photographs with fur labels by Kim et al., Learning Not to Learn (2019). In `tb1` dogs are
    bright and cats are dark, in `tb2` it is the other way round. The paper trains on images of
    which all are aligned (`conflicting = 0`) and tests on the other set. Here the share of
    conflicting training images is a setting, and the test images are equally many of each class
    and fur.
    """

    source: ClassVar[str] = (
        "photographs of Kaggle's Dogs vs. Cats with the fur lists of Kim et al., Learning Not to"
        " Learn: Training Deep Neural Networks with Biased Data, CVPR 2019"
    )
    licence: ClassVar[str] = "Kaggle's competition rules (photographs); none stated (fur lists)"
    obtain: ClassVar[str] = (
        "photographs: kaggle.com/c/dogs-vs-cats-redux-kernels-edition (train.zip); lists: folder"
        " dataset/dogs_and_cats of github.com/feidfoe/learning-not-to-learn"
    )
    layout: ClassVar[str] = (
        "dogs_cats/ with Kaggle's folder train/ (cat.0.jpg, dog.0.jpg, ...) and the lists"
        f" list_bright.txt and list_dark.txt (a file name in each line); or dogs_cats/{_TABLE} with"
        " the columns class_name, bias_name, name and jpeg"
    )
    counts: ClassVar[Mapping[str, int]] = {
        "bright cats": 3086,
        "dark cats": 4748,
        "bright dogs": 5299,
        "dark dogs": 3652,
    }
    folders: ClassVar[tuple[str, ...]] = ("dogs_cats", "dogs_and_cats")
    marks: ClassVar[tuple[str, ...]] = ("list_bright.txt", _TABLE)

    kind: Literal["tb1", "tb2"] = "tb1"
    """Which furs go with the classes: tb1 is bright dogs and dark cats, tb2 the opposite."""
    conflicting: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the training and validation images of each class with the other fur."""
    size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Height and width that images are brought to."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the images not used for testing that is for validation; 0: none."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the smallest group that is for testing; of each group as many images are."""
    complete: bool = True
    """Refuse lists that have not the published numbers of images."""

    def load(
        self, root: Path | str | None = None, *, seed: int = 0, progress: Progress | None = None
    ) -> Splits:
        """Read the photographs and draw the splits."""
        folder = self.folder(root)
        table = folder / _TABLE
        read = self._from_table if table.is_file() else self._from_lists
        images, names, y, fur = read(folder, progress)
        aligned = np.array(_ALIGNED[self.kind])
        parts = biased(
            y,
            fur,
            aligned,
            self.conflicting,
            test_share=self.test_share,
            val_share=self.val_share,
            seed=(seed, "dogs_cats"),
        )
        data = labelled(images, y, CLASSES, names, fur=(fur, FURS))
        return divided(data, parts, bias="fur", aligned=aligned)

    def _from_table(
        self, folder: Path, progress: Progress | None
    ) -> tuple[ArrayFile, list[str], Ids, Ids]:
        table = folder / _TABLE
        wanted = ("name", "class_name", "bias_name")
        names, classes, furs = columns_of(read_table(table, wanted), wanted, table.name)
        y = coded(classes, CLASSES, f"{table.name}, column class_name")
        fur = coded(furs, FURS, f"{table.name}, column bias_name")
        return read_column(table, "jpeg", names, self.size, progress), names, y, fur

    def _from_lists(
        self, folder: Path, progress: Progress | None
    ) -> tuple[ArrayFile, list[str], Ids, Ids]:
        names: list[str] = []
        furs: list[int] = []
        for code, fur in enumerate(FURS):
            listed = _names(folder / f"list_{fur}.txt")
            names += listed
            furs += [code] * len(listed)
        y = np.array([CLASSES.index(name.split(".")[0]) for name in names], dtype=np.int64)
        values = np.array(furs, dtype=np.int64)
        twice = len(names) - len(set(names))
        if twice:
            raise DataError(f"{folder}: {twice:,} images are named twice in the two lists")
        if self.complete:
            found = {
                f"{fur} {kind}s": int(((y == k) & (values == v)).sum())
                for k, kind in enumerate(CLASSES)
                for v, fur in enumerate(FURS)
            }
            check_counts("the fur lists", self.counts, found)
        files = [folder / "train" / name for name in names]
        return read_files(files, self.size, progress), names, y, values


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of file names: {error}") from error
    for line in lines:
        if line.split(".")[0] not in CLASSES:
            raise DataError(f"{path}: '{line}' is not a name such as cat.0.jpg or dog.0.jpg")
    return lines
