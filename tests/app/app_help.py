"""Made-up audits for the app, people at browsers, and a server."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from truecue.audit.audit import Audit
from truecue.data.sets import ImageSet, Splits
from truecue.engine.device import Device
from truecue.engine.features import digest_of_set

if TYPE_CHECKING:
    from truecue.app.source import Source

NASTY = '<script>alert("x")</script>'
"""The name of class 0."""
CPU = Device("cpu")


class Person:
    """Somebody at a browser without scripts."""

    def __init__(self, source: Source, name: str = "", **gate: Any):
        from fastapi.testclient import TestClient

        from truecue.app.security import Gate
        from truecue.app.server import make_app

        self.app = make_app(source, Gate(**gate), device=CPU)
        self.http = TestClient(self.app, base_url="http://127.0.0.1:8000")
        if name:
            self.post("/who", name=name)

    def get(self, address: str, **options: Any) -> Any:
        return self.http.get(address, **options)

    def json(self, address: str) -> dict[str, Any]:
        """What the twin of a page holds."""
        answer = self.get(address)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @property
    def token(self) -> str:
        found = re.search(r'name="token" value="(\w+)"', self.get("/agreement").text)
        assert found is not None
        return found[1]

    def post(self, address: str, **values: Any) -> Any:
        values.setdefault("token", self.token)
        return self.http.post(address, data=values, follow_redirects=False)

    def answer(self, c: int, f: int, answer: str = "background", **values: Any) -> Any:
        given = {"answer": answer, "confidence": "4", "reason": "the tint", "started": "5.0"}
        return self.post(f"/judge/{c}/{f}", **given | values)


def judge_all(source: Source, answer: Callable[[int, int], str], name: str = "Ada") -> None:
    """Answers about all features, past the server."""
    from truecue.audit.verdicts import Judgement

    source.verdicts.add(
        *(
            Judgement(f.class_index, f.feature, name, answer(f.class_index, f.feature), 3, "why")  # type: ignore[arg-type]
            for f in source.audit.pairs()
        )
    )


def made_up(
    folder: Path, n: int, classes: int, width: int, *, split: str = "test"
) -> tuple[Audit, Splits]:
    """An audit of n images in every split but with made-up numbers, written file by file."""
    rng = np.random.default_rng(0)
    names = tuple(f"class {c}" for c in range(classes))
    parts = {}
    for name in ("train", "test"):
        size = n if name == split else 20 * classes
        y = torch.arange(size) % classes
        parts[name] = ImageSet(torch.zeros(size, 1, 1, 1, dtype=torch.uint8), y, names)
        columns = rng.normal(size=(size, width)).astype(np.float32)
        order = np.stack([np.lexsort((column, y.numpy())) for column in columns.T]).astype(np.int32)
        says = np.where(rng.random(size) < 0.8, y.numpy(), 0)
        (folder / name).mkdir(parents=True)
        arrays = {"labels": y.numpy(), "predicted": says, "grouped": says, "columns": columns,
                  "order": order}  # fmt: skip
        for key, array in arrays.items():
            np.save(folder / name / f"{key}.npy", array)
    feature = {"importance": 0.1, "share": 0.01}
    table = [
        {"class": name, "n": {s: len(p) // classes for s, p in parts.items()}, "rule": "correct",
         "group": 10, "features": [
             {"feature": 100 * c + j, "slot": j, "rank": j + 1, "name": f"feature {100 * c + j}",
              **feature} for j in range(width)]}
        for c, name in enumerate(names)
    ]  # fmt: skip
    facts = {
        "format": 1, "kind": "audit", "classes": list(names), "width": width, "cues": [],
        "splits": {s: {"n": len(p), "digest": digest_of_set(p)} for s, p in parts.items()},
        "encoder": {"arch": "none", "features": 100 * classes, "digest": "0" * 32, "head": "own"},
        "model": {"arch": "none", "is_encoder": True, "digest": "0" * 32}, "notes": [],
        "table": table,
    }  # fmt: skip
    (folder / "audit.json").write_text(json.dumps(facts))
    return Audit(folder), Splits(parts["train"], None, parts["test"])


@contextmanager
def served(source: Source) -> Iterator[str]:
    """A server in a thread; its address."""
    import uvicorn

    from truecue.app.server import make_app

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(source, device=CPU), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
