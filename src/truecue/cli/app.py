"""`truecue app`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truecue.cli import options as o

if TYPE_CHECKING:
    from truecue.data.sets import Splits


def app(
    audit: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of an audit: see 'truecue audit'.")
    ],
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", metavar="DIR", help="Another model's audit of the same images, to compare."
        ),
    ] = None,
    probed: Annotated[
        list[Path] | None,
        typer.Option(
            "--probe",
            metavar="DIR",
            help="A folder that 'truecue directions probe' wrote, whose"
            " directions are to be judged.",
        ),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", help="The encoder is adversarially robust: show amplified images."
        ),
    ] = False,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="To listen at.")] = 8000,
    host: Annotated[
        str,
        typer.Option("--host", help="Where to listen; one that others reach needs --password."),
    ] = "127.0.0.1",
    password: Annotated[
        str | None,
        typer.Option("--password", envvar="TRUECUE_PASSWORD", help="Asked for before anything."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the first page in a browser.")
    ] = True,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Where the images are now, if they have moved: see DATA."),
    ] = None,
    root: o.Root = None,
    device: o.Accelerator = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Open an audit as pages: judge features and directions, see rankings, gaps and labels.

    The images are loaded again by what the audit's run.toml says. Only this machine can open the
    pages, unless --host and --password say otherwise. Ctrl-C stops; every answer is stored at once.
    """
    from importlib.util import find_spec

    from truecue.errors import MissingExtra

    absent = [n for n in ("fastapi", "uvicorn", "python_multipart") if find_spec(n) is None]
    if absent:
        raise MissingExtra(
            f"the app needs {', '.join(absent)}, which is not installed: pip install 'truecue[app]'"
        )
    from truecue.app.probed import Probed
    from truecue.app.security import Gate
    from truecue.app.server import serve
    from truecue.app.source import Source
    from truecue.audit.audit import Audit

    gate = Gate(host, password)
    opened = Audit(audit)
    others, probes = [Audit(p) for p in beside or []], [Probed(p) for p in probed or []]
    compute = o.open_device(device, threads=threads)
    splits = _images(audit, data, root, quiet=quiet)
    source = Source(opened, splits, others=others, probes=probes, robust=robust)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def ready() -> None:
        typer.echo(f"Open {address} (Ctrl-C stops)")
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve(source, gate, port=port, device=compute, ready=ready)


def _images(folder: Path, data: str | None, root: Path | None, *, quiet: bool) -> Splits:
    """The images of an audit, by what its run.toml says.

    Raises:
        DataError: the file is absent, does not say where the images are from, or they are gone.
    """
    from truecue.config import read_toml
    from truecue.errors import DataError

    path = folder / "run.toml"
    if not path.is_file():
        raise DataError(f"{folder} holds no run.toml, which says where its images are from")
    asked: dict[str, Any] = read_toml(path).get("asked", {})
    settings = asked.get("data_settings") or {}
    name = data or asked.get("data")
    if name is None:
        raise DataError(
            f"{path} does not say where the images are from, as the audit was made in Python: name"
            " them with --data, or call truecue.app.server.serve"
        )
    if data is not None:
        suite = o.open_suite(data, {k: v for k, v in settings.items() if k not in _PLACES})
    else:
        suite = o.suite_again(asked)
        place = Path(settings.get("root") or ".").expanduser()
        if place.suffix != ".tar" and not place.exists():  # shards may be named by a pattern
            raise DataError(
                f"the images of {folder} were in {place}, and nothing is there; say where they are"
                " now with --data"
            )
    return o.load(suite, root, int(asked.get("seed", 0)), quiet=quiet)


_PLACES = ("root", "table")
