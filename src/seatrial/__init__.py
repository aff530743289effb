"seatrial takes a machine-learning model from the notebook in which it is built to production, and keeps it honest there."

__version__ = "0.1.0"

FACE = {}


def __getattr__(name):
    "Load the named part of the face on first use, so that `import seatrial` costs nothing."
    raise AttributeError(name)
