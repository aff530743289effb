"seatrial takes a machine-learning model from the notebook in which it is built to production, and keeps it honest there."

from importlib import import_module

__version__ = "0.1.0"

FACE = {  # name -> the room and module that it lives in; loaded on first use
    "Client": "serve.client",
    "Controller": "operate.controller",
    "Journal": "base.journal",
    "Plan": "rollout.trial",
    "Registry": "registry.versions",
    "always_valid": "stats.sequential",
    "fit": "engine.fit",
    "load": "engine.runtime",
    "register": "registry.versions",
    "serve": "serve.server",
    "shift": "drift.shift",
}

__all__ = [*FACE, "__version__"]  # noqa: PLE0604


def __getattr__(name):
    "Load one name of the face, so that `import seatrial` itself costs nothing."
    if name not in FACE:
        raise AttributeError(f"seatrial has no {name!r}; its face is {', '.join(sorted(FACE))}")
    return getattr(import_module(f"seatrial.{FACE[name]}"), name)


def __dir__():
    return sorted(__all__)
