"""The server: how it is put together, and how it starts.

Every page is there twice: `/classes` for people and `/classes.json` with the same values.
"""

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from truecue.app.reading import Reading
from truecue.app.security import Gate, Guard
from truecue.app.site import Site
from truecue.app.source import Source
from truecue.app.writing import Writing
from truecue.engine.device import Device
from truecue.errors import ConfigError

HERE = Path(__file__).parent


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
    site = Site(source, gate)
    reading = Reading(site, device or Device())
    reading.pages(app)
    reading.files(app)
    Writing(site).writes(app)
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
