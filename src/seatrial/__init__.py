"""Takes a machine-learning model from the notebook in which it is built to production, and keeps it honest there.

Modules:

- `seatrial.app.cli`: What does a person type, and what does a script read from it?
- `seatrial.app.console`: How does a person's line become a call, and a result something that both people and scripts can read?
- `seatrial.app.demo`: What does it take to bring a better model to production, and to keep a worse one out?
- `seatrial.app.story`: How do two scorers come into being, and which of their variants deserve to sail?
- `seatrial.base.data`: Which real data does the voyage use, and how is it split without fooling oneself?
- `seatrial.base.journal`: What did the served models do, and can every answer be accounted for?
- `seatrial.base.ledger`: Where do decisions go that everybody must see at once, and who may make them?
- `seatrial.base.record`: What is written down about a served model, and what is refused before it is written?
- `seatrial.base.settings`: What may an operator change, and what happens when they mistype it?
- `seatrial.base.spool`: How does an answer's record survive the process that sent it, for a few microseconds?
- `seatrial.drift.distance`: How far has one feature moved, and could that be chance?
- `seatrial.drift.shift`: Which of many features have moved enough to wake somebody?
- `seatrial.engine.bundle`: What must travel with a graph so that a stranger's process can answer with it?
- `seatrial.engine.export`: How does a trained model, from whatever library, become a graph?
- `seatrial.engine.fit`: Which form of a model deserves to be served on this machine?
- `seatrial.engine.parity`: Is the graph that will serve really the model that was trained?
- `seatrial.engine.preparation`: How does text become numbers, without a line of code travelling with the model?
- `seatrial.engine.quantize`: What is lost when a weight becomes one byte, and what is won?
- `seatrial.engine.runtime`: Can one face run every graph, and say no before the graph does?
- `seatrial.engine.signature`: What may a stranger send, and what does a refusal have to say?
- `seatrial.model.quality`: How good would a reader say this text is, and what is the least network that can tell?
- `seatrial.operate.controller`: Who turns evidence into decisions, when nobody is watching?
- `seatrial.registry.manifest`: What may be served, and is it still what was registered?
- `seatrial.registry.numbering`: What does a version say about itself, and what does its number promise?
- `seatrial.registry.tracking`: How do we keep books in MLflow without paying for it everywhere?
- `seatrial.registry.versions`: What exists, where does it come from, and who served when?
- `seatrial.report.runner`: How does a notebook become a report that nobody has to watch?
- `seatrial.report.story`: How is a trial told to somebody who was asleep?
- `seatrial.report.template`: What can a report be told, and how is a typing mistake found before it costs ten minutes?
- `seatrial.rollout.canary`: When does a new version get more traffic, and when is it taken off?
- `seatrial.rollout.evidence`: What did each variant do, counted in people and not in clicks?
- `seatrial.rollout.split`: Who gets which version, and can anybody be moved back?
- `seatrial.rollout.trial`: What is being tried, how far has it come, and who says so?
- `seatrial.serve.client`: How do we ask a server as its users do, a thousand times, and believe the latencies?
- `seatrial.serve.front`: How does HTTP come in, and how does everything leave as one response?
- `seatrial.serve.lane`: How do a thousand small requests reach one model without a thousand messages?
- `seatrial.serve.metrics`: What does it cost to count every request, and what may be left to the moment when somebody asks?
- `seatrial.serve.office`: What does a server know before anybody asks, and what must it ask only once?
- `seatrial.serve.passage`: What happens to a request between its body and its answer, and who steps in when something fails?
- `seatrial.serve.protocol`: What may a client say, and what does it hear when it says it wrong?
- `seatrial.serve.routing`: Which version answers this request, and how soon does every server know that it changed?
- `seatrial.serve.server`: How do several processes start, serve, fail and stop as if they were one?
- `seatrial.serve.worker`: What runs at the far end of the lane, and what may go wrong there without anybody noticing?
- `seatrial.stats.comparison`: By how much do two means differ, and how sure are we?
- `seatrial.stats.moments`: What must be remembered of a million numbers, so that their mean can be compared later?
- `seatrial.stats.multiple`: Which of many p-values are discoveries?
- `seatrial.stats.sequential`: May I look at a running experiment, and stop it when I like what I see?
- `seatrial.tune.progressive`: How do you teach an old network a new task without making it forget what it knows?"""

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
    "shift": "drift.shift",
}

__all__ = [*FACE, "serve", "__version__"]  # noqa: PLE0604


def __getattr__(name):
    "Load one name of the face, so that `import seatrial` itself costs nothing."
    if name == "serve":  # a room that can be called
        return import_module("seatrial.serve")
    if name not in FACE:
        raise AttributeError(f"seatrial has no {name!r}; its face is {', '.join(sorted([*FACE, 'serve']))}")
    return getattr(import_module(f"seatrial.{FACE[name]}"), name)


def __dir__():
    return sorted(__all__)
