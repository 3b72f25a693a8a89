"""Hugging Face data sets on disk and WebDataset shards: layouts, splits, attributes, bad input."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from truecue.data.check import check
from truecue.data.sets import ImageSet, Splits, class_counts
from truecue.data.suites import Folder, open_data
from truecue.data.suites.records import Lazy
from truecue.data.suites.wds import find_shards
from truecue.errors import DataError

LABELS = ("cat", "dog")
PLACES = ("grass", "sand")


def picture(seed: int, kind: str = "PNG") -> bytes:
    """12 x 12 pixels whose colour tells the seed."""
    pixels = np.full((12, 12, 3), (seed % 256, seed // 256, 77), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def seeds(part: ImageSet) -> list[int]:
    corner = part.images[:][:, :2, 0, 0].int()
    return (corner[:, 0] + 256 * corner[:, 1]).tolist()


def load(path: Path | str, **settings: Any) -> Splits:
    return open_data(str(path), {"size": 12} | settings).load()


# --- Hugging Face -------------------------------------------------------------------------------

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": list(LABELS), "_type": "ClassLabel"},
    "place": {"names": list(PLACES), "_type": "ClassLabel"},
    "weather": {"dtype": "string", "_type": "Value"},
    "weight": {"dtype": "float64", "_type": "Value"},
    "boxes": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "Sequence"},
}


def columns(ids: Sequence[int]) -> dict[str, list[Any]]:
    return {
        "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in ids],
        "label": [i % 2 for i in ids],
        "place": [i // 2 % 2 for i in ids],
        "weather": [("wet", "dry", None)[i % 3] for i in ids],
        "weight": [i / 7 for i in ids],
        "boxes": [[i, i + 1] for i in ids],
    }


SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "label": pa.int64(),
        "place": pa.int64(),
        "weather": pa.string(),
        "weight": pa.float64(),
        "boxes": pa.list_(pa.int64()),
    }
)


def save(
    folder: Path,
    data: dict[str, list[Any]],
    schema: pa.Schema = SCHEMA,
    files: int = 1,
    features: dict[str, Any] = FEATURES,
) -> Path:
    """A data set as `Dataset.save_to_disk` writes it: Arrow streams and two JSON files."""
    folder.mkdir(parents=True)
    table = pa.table(data, schema=schema)
    names = [f"data-{k:05d}-of-{files:05d}.arrow" for k in range(files)]
    per_file = -(-len(table) // files)
    for k, name in enumerate(names):
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as writer,
        ):
            writer.write_table(table.slice(k * per_file, per_file), max_chunksize=7)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    about = {"citation": "", "description": "", "features": features, "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(about, indent=2))
    return folder


def save_splits(folder: Path, splits: dict[str, Sequence[int]]) -> Path:
    for name, ids in splits.items():
        save(folder / name, columns(ids))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


class TestHuggingFace:
    def test_one_data_set(self, tmp_path: Path) -> None:
        data = load(save(tmp_path / "zoo", columns(range(60)), files=3))
        assert {n: class_counts(p) for n, p in data.parts().items()} == {
            "train": [22, 22],
            "val": [2, 2],
            "test": [6, 6],
        }
        assert data.train.classes == LABELS
        assert {k: a.names for k, a in data.train.attributes.items()} == {
            "place": PLACES,
            "weather": ("dry", "wet"),
        }
        everything = [i for part in data.parts().values() for i in seeds(part)]
        assert sorted(everything) == list(range(60))
        for part in data.parts().values():
            for row, i in enumerate(seeds(part)):
                assert part.y[row] == i % 2
                assert part.names[row] == f"zoo row {i + 1}"
                assert part.attributes["place"].values[row] == i // 2 % 2
                assert part.attributes["weather"].values[row] == (1, 0, -1)[i % 3]

    def test_splits(self, tmp_path: Path) -> None:
        splits = {"train": range(20), "validation": range(20, 28), "test": range(28, 40)}
        data = load(save_splits(tmp_path / "zoo", splits), bias="place")
        assert {n: seeds(p) for n, p in data.parts().items()} == {
            "train": list(range(20)),
            "val": list(range(20, 28)),
            "test": list(range(28, 40)),
        }
        assert data.bias == "place"
        assert data.val is not None
        assert data.val.names[0] == "validation row 1"
        assert data.notes == ()

    def test_missing_splits_are_drawn_and_others_left_out(self, tmp_path: Path) -> None:
        splits = {"train": range(40), "unsupervised": range(40, 44)}
        data = load(save_splits(tmp_path / "zoo", splits))
        assert [len(p) for p in data.parts().values()] == [28, 4, 8]
        assert data.notes[0] == (
            "splits that are not train, val or test were left out: 'unsupervised'"
        )

    def test_images_in_files_of_their_own(self, tmp_path: Path) -> None:
        data = columns(range(20))
        (tmp_path / "zoo" / "raw").mkdir(parents=True)
        for i in range(20):
            (tmp_path / "zoo" / "raw" / f"{i}.png").write_bytes(picture(i))
        data["image"] = [{"bytes": None, "path": f"raw/{i}.png"} for i in range(20)]
        save(tmp_path / "saved", data)
        for file in (tmp_path / "saved").iterdir():
            file.rename(tmp_path / "zoo" / file.name)
        found = load(tmp_path / "zoo")
        assert sorted(i for p in found.parts().values() for i in seeds(p)) == list(range(20))

    def test_other_names_and_plain_text_labels(self, tmp_path: Path) -> None:
        data = columns(range(20))
        data = {"img": data["image"], "animal": [LABELS[i % 2] for i in range(20)]}
        schema = pa.schema({"img": SCHEMA.field("image").type, "animal": pa.string()})
        path = save(tmp_path / "zoo", data, schema, features={})
        with pytest.raises(DataError, match=r"zoo has no column 'label' \(columns: animal\)"):
            load(path)
        assert load(path, label="animal").train.classes == LABELS
        with pytest.raises(DataError, match=r"no column 'pic' of images.*columns of images: img;"):
            load(path, label="animal", file="pic")

    def test_two_columns_of_images(self, tmp_path: Path) -> None:
        data = {"label": [0, 1] * 5, "left": columns(range(10))["image"]}
        data["right"] = columns(range(10, 20))["image"]
        kind = SCHEMA.field("image").type
        schema = pa.schema({"label": pa.int64(), "left": kind, "right": kind})
        path = save(tmp_path / "zoo", data, schema, features={})
        with pytest.raises(DataError, match=r"several columns of images \(left, right\)"):
            load(path)
        assert min(seeds(load(path, file="right").train)) >= 10

    def test_rows_without_label_or_image(self, tmp_path: Path) -> None:
        data = columns(range(20))
        data["label"][3], data["label"][4] = None, -1
        data["image"][5] = None
        data["image"][6] = {"bytes": None, "path": None}
        path = save(tmp_path / "zoo", data)
        with pytest.raises(DataError, match=r"4 entries.*zoo row 4: it has no label") as caught:
            load(path)
        assert "truecue data check" in str(caught.value)
        report = check(str(path))
        assert [fault.where for fault in report.faults] == [f"zoo row {k}" for k in (4, 5, 6, 7)]
        assert "column 'image' is empty" in report.faults[2].reason
        assert report.images == 16

    def test_unreadable_images(self, tmp_path: Path) -> None:
        data = columns(range(20))
        data["image"][2]["bytes"] = b"no image"
        data["image"][4] = {"bytes": None, "path": "gone.png"}
        path = save(tmp_path / "zoo", data)
        with pytest.raises(DataError, match="zoo row 3: it is not an image of a known kind"):
            load(path)
        kept = load(path, skip_unreadable=True)
        assert sum(len(part) for part in kept.parts().values()) == 18
        assert "2 images could not be read and were left out" in kept.notes
        assert "there is no such file" in check(str(path)).faults[1].reason

    def test_damage(self, tmp_path: Path) -> None:
        path = save(tmp_path / "zoo", columns(range(20)), files=2)
        arrow = path / "data-00001-of-00002.arrow"
        whole = arrow.read_bytes()
        arrow.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"00001-of-00002.arrow cannot be read.*in full\?"):
            load(path)
        arrow.unlink()
        with pytest.raises(DataError, match=r"there is no file .*00001-of-00002.arrow, which"):
            load(path)
        (path / "state.json").write_text("{")
        with pytest.raises(DataError, match=r"state.json cannot be read"):
            load(path)
        (path / "state.json").write_text("{}")
        with pytest.raises(DataError, match="names no data files"):
            load(path)
        (path / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "x"}], "_indices_files": [{"filename": "i"}]})
        )
        with pytest.raises(DataError, match="an old version of datasets"):
            load(path)

    def test_splits_that_do_not_fit(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"has no split that is called train.*'fold1'"):
            load(save_splits(tmp_path / "a", {"fold1": range(10)}))
        with pytest.raises(DataError, match="two splits of val images: train, val, valid"):
            load(save_splits(tmp_path / "b", {"train": [0], "val": [1], "valid": [2]}))
        path = save_splits(tmp_path / "c", {"train": range(10), "test": range(4)})
        (path / "test").rename(path / "away")
        with pytest.raises(DataError, match=r"no file .*test/state.json; was the data set copied"):
            load(path)
        data = columns(range(4))
        del data["weight"]
        save(path / "test", data, SCHEMA.remove(4))
        with pytest.raises(DataError, match="All splits must have the same"):
            load(path)

    def test_label_beyond_its_names(self, tmp_path: Path) -> None:
        data = columns(range(10))
        data["label"][7] = 2
        with pytest.raises(DataError, match="column 'label' holds 2, and its names end at 1"):
            load(save(tmp_path / "zoo", data))

    def test_a_changed_file_is_decoded_again(self, tmp_path: Path) -> None:
        path = save(tmp_path / "zoo", columns(range(20)))
        load(path)
        path.rename(tmp_path / "old")
        changed = load(save(tmp_path / "zoo", columns(range(100, 120))))
        assert min(seeds(changed.train)) >= 100

    def test_the_cache_knows_which_images_were_chosen(self, tmp_path: Path) -> None:
        """Rows left out for one setting must not shift the images of another."""
        data = columns(range(20))
        data["weather"][3] = None
        data["weather"] = ["wet" if w else None for w in data["weather"]]
        data["weather"][7] = "dry"
        path = save(tmp_path / "zoo", data)
        assert check(Folder(root=str(path), size=12, label="weather")).images == 13
        whole = load(path)
        for part in whole.parts().values():
            assert [f"zoo row {i + 1}" for i in seeds(part)] == list(part.names)

    def test_changed_files_outside(self, tmp_path: Path) -> None:
        data = columns(range(10))
        data["image"][0] = {"bytes": None, "path": "0.png"}
        path = save(tmp_path / "zoo", data)
        (path / "0.png").write_bytes(picture(0))
        shares = {"val_share": 0, "test_share": 0.1}
        before = [i for p in load(path, **shares).parts().values() for i in seeds(p)]
        (path / "0.png").write_bytes(picture(300))
        after = [i for p in load(path, **shares).parts().values() for i in seeds(p)]
        assert sorted(before) == list(range(10))
        assert sorted(after) == [*range(1, 10), 300]

    def test_check(self, tmp_path: Path) -> None:
        data = columns([*range(19), 0])
        report = check(str(save(tmp_path / "zoo", data)), at_least=1)
        assert sum(sum(by.values()) for by in report.counts.values()) == 20
        assert [copies.files for copies in report.copies] in (
            [("zoo row 1", "zoo row 20")],
            [("zoo row 20", "zoo row 1")],
        )
        assert report.sizes["median"] == (12, 12)


# --- WebDataset ---------------------------------------------------------------------------------


def shard(path: Path, members: Sequence[tuple[str, bytes | str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, held in members:
            held = held.encode() if isinstance(held, str) else held
            info = tarfile.TarInfo(name)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    return path


def with_cls(ids: Sequence[int]) -> list[tuple[str, bytes | str]]:
    return [m for i in ids for m in ((f"{i:03d}.png", picture(i)), (f"{i:03d}.cls", f"{i % 2}\n"))]


def with_json(ids: Sequence[int], **more: Any) -> list[tuple[str, bytes | str]]:
    found: list[tuple[str, bytes | str]] = []
    for i in ids:
        about = {"label": LABELS[i % 2], "place": PLACES[i // 2 % 2], "id": i, "box": [1, 2]}
        found += [(f"a/{i:03d}.JSON", json.dumps(about | more)), (f"a/{i:03d}.jpg", picture(i))]
    return found


class TestShards:
    def test_one_shard(self, tmp_path: Path) -> None:
        data = load(shard(tmp_path / "zoo.tar", with_cls(range(40))))
        assert [class_counts(p) for p in data.parts().values()] == [[14, 14], [2, 2], [4, 4]]
        assert data.train.classes == ("0", "1")
        for part in data.parts().values():
            for row, i in enumerate(seeds(part)):
                assert part.y[row] == i % 2
                assert part.names[row] == f"{i:03d}.png"
        assert sorted(i for p in data.parts().values() for i in seeds(p)) == list(range(40))

    def test_attributes_and_a_folder_of_shards(self, tmp_path: Path) -> None:
        for k in range(3):
            shard(tmp_path / "zoo" / f"part-{k}.tar", with_json(range(20 * k, 20 * k + 20)))
        (tmp_path / "zoo" / "sizes.json").write_text("{}")
        data = load(tmp_path / "zoo", bias="place")
        assert data.train.classes == LABELS
        assert {k: a.names for k, a in data.train.attributes.items()} == {"place": PLACES}
        assert "part-0.tar/a/000.jpg" in [n for p in data.parts().values() for n in p.names]
        for part in data.parts().values():
            for row, i in enumerate(seeds(part)):
                assert part.attributes["place"].values[row] == i // 2 % 2

    def test_pattern(self, tmp_path: Path) -> None:
        for k in range(12):
            shard(tmp_path / f"zoo-{k:03d}.tar", with_cls(range(10 * k, 10 * k + 10)))
        found = find_shards(tmp_path / "zoo-{009..011}.tar")
        assert [path.name for path in found] == ["zoo-009.tar", "zoo-010.tar", "zoo-011.tar"]
        data = load(tmp_path / "zoo-{003..004}.tar")
        assert sorted(i for p in data.parts().values() for i in seeds(p)) == list(range(30, 50))
        with pytest.raises(DataError, match=r"2 of the 13 shards .* the first is zoo-012.tar"):
            load(tmp_path / "zoo-{001..013}.tar")
        with pytest.raises(DataError, match=r"\{5..1\} is not a range of shards"):
            load(tmp_path / "zoo-{5..1}.tar")

    @pytest.mark.parametrize("form", ["zoo-{}-000.tar", "{}/000.tar", "{}_000.tar"])
    def test_splits_by_name(self, tmp_path: Path, form: str) -> None:
        ids = {"train": range(20), "Val": range(20, 26), "test": range(26, 36)}
        for split, chosen in ids.items():
            shard(tmp_path / "zoo" / form.format(split), with_cls(chosen))
        data = load(tmp_path / "zoo")
        assert [seeds(p) for p in data.parts().values()] == [list(r) for r in ids.values()]

    def test_splits_by_column(self, tmp_path: Path) -> None:
        members = with_json(range(20), split="train") + with_json(range(20, 30), split="valid")
        members += with_json(range(30, 40), split="test")
        data = load(shard(tmp_path / "zoo.tar", members))
        assert [len(p) for p in data.parts().values()] == [20, 10, 10]

    def test_some_shards_without_a_split(self, tmp_path: Path) -> None:
        shard(tmp_path / "zoo" / "train-0.tar", with_cls(range(20)))
        shard(tmp_path / "zoo" / "more-0.tar", with_cls(range(20)))
        with pytest.raises(DataError, match=r"more-0.tar does not say whether it is for training"):
            load(tmp_path / "zoo")

    def test_a_tar_file_beside_class_folders(self, zoo: Path) -> None:
        shard(zoo / "backup.tar", with_cls(range(4)))
        assert load(zoo).train.classes == ("cat", "dog")

    def test_several_images_in_a_sample(self, tmp_path: Path) -> None:
        members: list[tuple[str, bytes | str]] = []
        for i in range(20):
            members += [(f"{i}.seg.png", picture(200 + i)), (f"{i}.png", picture(i))]
            members += [(f"{i}.cls", str(i % 2)), (f"{i}.npy", b"\xff\xfe\x00"), (f"{i}.txt", "x")]
        path = shard(tmp_path / "zoo.tar", members)
        assert max(seeds(load(path).train)) < 20
        assert min(seeds(load(path, file="seg.png").train)) >= 200
        two = shard(tmp_path / "two.tar", [("0.png", picture(0)), ("0.jpg", b""), ("0.cls", "1")])
        with pytest.raises(DataError, match=r"two.tar: 0: it has several images \(.png, .jpg\)"):
            load(two)

    def test_samples_that_lack_something(self, tmp_path: Path) -> None:
        members = with_cls(range(20))
        members += [("100.png", picture(1)), ("101.cls", "0"), ("102.png", b"x"), ("102.cls", "1")]
        path = shard(tmp_path / "zoo.tar", members)
        with pytest.raises(DataError, match=r"2 entries.*zoo.tar: 100: it has no label \('label'"):
            load(path)
        report = check(str(path))
        assert [str(f) for f in report.faults] == [
            "zoo.tar: 100: it has no label ('label' is empty)",
            "zoo.tar: 101: it has no image",
            "zoo.tar: 102: it is not an image of a known kind",
        ]
        assert report.images == 20

    def test_no_label_at_all(self, tmp_path: Path) -> None:
        members = [(f"{i}.png", picture(i)) for i in range(4)]
        with pytest.raises(DataError, match=r"has no column 'label' \(columns: none\)"):
            load(shard(tmp_path / "a.tar", members))
        with pytest.raises(
            DataError, match=r"has no column 'kind'.*columns: box, id, label, place"
        ):
            load(shard(tmp_path / "b.tar", with_json(range(4))), label="kind")

    @pytest.mark.parametrize("cut", [0.3, 0.55, 0.99])
    def test_cut_off(self, tmp_path: Path, cut: float) -> None:
        path = shard(tmp_path / "zoo.tar", with_cls(range(20)))
        size = 2 * 20 * 1024  # a header and a block of bytes for each member
        path.write_bytes(path.read_bytes()[: int(cut * size)])
        with pytest.raises(DataError, match=r"zoo.tar cannot be read.*was it copied in full\?"):
            load(path)

    def test_cut_off_between_members(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "zoo.tar", with_cls(range(20)))
        with tarfile.open(path) as tar:
            start = tar.getmember("010.png").offset
        path.write_bytes(path.read_bytes()[:start])
        with pytest.raises(DataError, match="no end mark after the last member"):
            load(path)

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
        with pytest.raises(DataError, match=r"a.tar cannot be read as a tar file"):
            load(tmp_path / "a.tar")
        path = shard(tmp_path / "b.tar", with_cls(range(20)))
        with tarfile.open(path) as tar:
            start = tar.getmember("010.png").offset
        held = bytearray(path.read_bytes())
        held[start : start + 300] = b"\x07" * 300
        path.write_bytes(bytes(held))
        with pytest.raises(DataError, match=r"b.tar cannot be read as a tar file"):
            load(path)
        with pytest.raises(DataError, match=r"c.tar: 0.json is not JSON"):
            load(shard(tmp_path / "c.tar", [("0.json", "{"), ("0.png", picture(0))]))
        with pytest.raises(DataError, match="must hold names and values"):
            load(shard(tmp_path / "d.tar", [("0.json", "[1]"), ("0.png", picture(0))]))
        with pytest.raises(DataError, match=r"there is no folder or table gone.tar"):
            open_data("gone.tar")

    def test_samples_in_pieces(self, tmp_path: Path) -> None:
        members = [("0.png", picture(0)), ("1.png", picture(1)), ("0.cls", "0")]
        with pytest.raises(DataError, match="members of sample '0' do not follow one another"):
            load(shard(tmp_path / "zoo.tar", members))

    def test_names_of_members_are_never_paths(self, tmp_path: Path) -> None:
        members: list[tuple[str, bytes | str]] = []
        for i in range(20):
            members += [(f"../../{i}.png", picture(i)), (f"../../{i}.cls", str(i % 2))]
        path = shard(tmp_path / "in" / "deep" / "zoo.tar", members)
        before = sorted(tmp_path.rglob("*"))
        data = load(path)
        assert len(data.train) == 14
        after = [p for p in sorted(tmp_path.rglob("*")) if "the cache" not in str(p)]
        assert after == before
        with tarfile.open(tmp_path / "links.tar", "w") as tar:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
                info = tarfile.TarInfo("0.png")
                info.type, info.linkname = kind, "/etc/hostname"
                tar.addfile(info)
        with pytest.raises(DataError, match="has no column 'label'"):
            load(tmp_path / "links.tar")

    def test_the_cache_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = shard(tmp_path / "zoo.tar", with_cls(range(20)))
        first = load(path)
        calls: list[int] = []
        monkeypatch.setattr("truecue.data.files.read_image", lambda *_: calls.append(1))
        assert torch.equal(load(path).train.images[:], first.train.images[:])
        assert not calls

    def test_planted_in_shards(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "zoo.tar", with_cls(range(40)))
        data = open_data("planted", {"base": str(path), "base_settings.size": 24}).load()
        assert data.train.shape == (3, 24, 24)
        assert data.bias == "patch"


def test_lazy_reads_only_what_is_asked_for() -> None:
    asked: list[int] = []

    def read(i: int) -> bytes:
        asked.append(i)
        return bytes([i])

    lazy = Lazy(5, read)
    assert len(lazy) == 5
    assert lazy[1:3] == [b"\x01", b"\x02"]
    assert lazy[-1] == b"\x04"
    assert asked == [1, 2, 4]
    with pytest.raises(IndexError):
        lazy[5]


@pytest.mark.parametrize("kind", ["hf", "wds"])
def test_commands(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from truecue.cli.main import app

    makers: dict[str, Callable[[], Path]] = {
        "hf": lambda: save(tmp_path / "zoo", columns(range(60))),
        "wds": lambda: shard(tmp_path / "zoo.tar", with_json(range(60))),
    }
    path = str(makers[kind]())
    result = CliRunner().invoke(app, ["data", "check", path, "--json", "--at-least", "2"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["images"] == 60
    assert "place" in {t["attribute"] for t in report["tables"]}
    assert isinstance(open_data(path), Folder)
