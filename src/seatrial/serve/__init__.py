'The room that speaks HTTP. Called, it serves: `seatrial.serve("mine")`.'

import sys
from types import ModuleType


class Room(ModuleType):
    "A package that is also the verb of its name."

    def __call__(self, *args, **kwargs):
        from .server import serve

        return serve(*args, **kwargs)


sys.modules[__name__].__class__ = Room
