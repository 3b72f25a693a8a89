from __future__ import annotations

from pathlib import Path

import pytest
from bench_parts import SMALL, small
from PIL import Image

from truecue.bench.plan import cells, read_bench
from truecue.errors import ConfigError, DataError


def read(folder: Path, text: str):
    return small(folder, text)


def test_cells_are_suites_times_methods_times_seeds_seed_by_seed(tmp_path: Path) -> None:
    _, made, _ = small(tmp_path)
    assert [str(c) for c in made[:3]] == [
        "erm on tints, seed 0",
        "lff on tints, seed 0",
        "erm on more, seed 0",
    ]
    assert [c.seed for c in made] == [0] * 4 + [1] * 4
    assert len({c.key() for c in made}) == 8


def test_settings_from_the_general_to_the_special(tmp_path: Path) -> None:
    text = SMALL.replace("[methods.lff]", """
[methods.lff]
settings = { q = 0.5, "plan.batch_size" = 32 }
on.more = { q = 0.3 }
""").replace("[suites.more]", '[suites.more]\nmethods = { "plan.batch_size" = 16 }')  # fmt: skip
    _, made, _ = read(tmp_path, text)
    by_name = {(c.method, c.suite): c.fit for c in made if c.seed == 0}
    assert by_name["lff", "tints"].q == 0.5
    assert by_name["lff", "more"].q == 0.3
    assert by_name["lff", "more"].plan.batch_size == 32
    assert by_name["erm", "more"].plan.batch_size == 16
    assert by_name["erm", "tints"].plan.epochs == 4


def test_key_follows_what_the_outcome_depends_on_and_not_the_names(tmp_path: Path) -> None:
    keys = {c.key() for c in small(tmp_path)[1]}
    renamed = SMALL.replace("suites.tints", "suites.other").replace(
        "[methods.erm]", '[methods.plain]\nmethod = "erm"'
    )
    assert {c.key() for c in read(tmp_path, renamed)[1]} == keys
    for change in (
        ('epochs" = 4', 'epochs" = 5'),
        ("mlp-3x8", "mlp-4x8"),
        ("conflicting = 0.02", "conflicting = 0.03"),
        ("record = 4", "record = 2"),
    ):
        assert not {c.key() for c in read(tmp_path, SMALL.replace(*change, 1))[1]} >= keys


def test_keys_of_suites_stay_what_they_were_since_stores_of_results_go_by_them(
    tmp_path: Path,
) -> None:
    text = """
seeds = [0]
[suites.mnist]
data = "colored_mnist"
settings = { conflicting = 0.02 }
[methods.erm]
[methods.lff]
settings = { q = 0.5 }
"""
    assert [c.key() for c in read(tmp_path, text)[1]] == ["cab75c3733f4a810", "26db232031958a24"]


OWN = """
seeds = [0]
[suites.own]
data = "{}"
settings = {{ size = 8 }}
[methods.erm]
"""


def test_key_follows_the_files_of_ones_own_images(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        _draw(root / name)
    table = root / "table.csv"
    table.write_text("file,label\ncat/1.png,a\ncat/2.png,a\ndog/1.png,b\n", encoding="utf-8")

    def key(data: Path) -> str:
        (cell,) = read(tmp_path, OWN.format(data))[1]
        return cell.key()

    for data in (root, table):
        first = key(data)
        assert key(data) == first
        _draw(root / "dog/1.png", size=64)
        changed = key(data)
        assert changed != first
        _draw(root / "dog/2.png", size=64)  # which the table does not name
        assert (key(data) == changed) == (data == table)
        _draw(root / "dog/1.png")
        _draw(root / "dog/2.png")
    now = key(root), key(table)
    table.write_text("file,label\ncat/1.png,a\ncat/2.png,b\ndog/1.png,b\n\n", encoding="utf-8")
    _draw(root / "dog/3.png")
    assert not {key(root), key(table)} & {*now}


def _draw(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size)).save(path)


def test_only_some_methods_on_a_suite(tmp_path: Path) -> None:
    text = SMALL.replace("[suites.more]", '[suites.more]\nonly = ["erm"]')
    assert len(read(tmp_path, text)[1]) == 6


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('data = "digits"', 'data = "digit"', r"suites\.tints: .*did you mean 'digits'"),
        ("[methods.lff]", "[methods.lfff]", r"methods\.lfff: .*did you mean 'lff'"),
        ("train_size", "trainsize", r"suites\.tints: Digits has no setting 'trainsize'"),
        ('"plan.epochs" = 4', '"plan.epoch" = 4', r"methods\.erm: .*did you mean 'epochs'"),
        ('"plan.epochs" = 4', '"plan.epochs" = 0', r"methods\.erm: .*greater than 0"),
        ("record = 4", "recrod = 4", r"Bench has no setting 'recrod'; did you mean 'record'"),
        ("[suites.more]", "[suites.more]\nonly = ['jtt']", "only: there is no 'jtt'"),
        ("[methods.lff]", "[methods.lff]\non.mores = { q = 0.5 }", r"no 'mores'.*'more'"),
        ("title", 'guess = "jtt"\ntitle', "guess: there is no 'jtt'"),
        ("record = 4", "record = 4 4", "cannot be read as TOML"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds: 0 stands there more than once"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, SMALL.replace(old, new, 1))


def test_published_figures_must_name_rows_and_columns(tmp_path: Path) -> None:
    paper = '[[published]]\nsource = "A"\n[published.values.{}]\n{} = 50.0\n'
    read(tmp_path, SMALL + paper.format("erm", "tints"))
    for method, suite in (("jtt", "tints"), ("erm", "no")):
        with pytest.raises(ConfigError, match="published 'A': there is no"):
            read(tmp_path, SMALL + paper.format(method, suite))


def test_absent_file_and_absent_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no settings file"):
        read_bench(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_bench(tmp_path)
    text = SMALL.replace('arch = "mlp-3x8"', 'pretrained = { weights = "w.pt", arch = "conv3" }')
    bench = read_bench(_write(tmp_path, text))
    with pytest.raises(DataError, match=r"suites\.tints: there is no weights file w\.pt"):
        cells(bench, None)


def _write(folder: Path, text: str) -> Path:
    (folder / "b.toml").write_text(text)
    return folder / "b.toml"
