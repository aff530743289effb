"""Takes a machine-learning model from the notebook in which it is built to production, and keeps it honest there.

Modules:

- `seatrial.app.cli`: What does a person type, and what does a script read from it?
- `seatrial.app.console`: How does a person's line become a call, and a result something that both people and scripts can read?
- `seatrial.app.demo`: What does it take to bring a better model to production, and to keep a worse one out?
- `seatrial.app.story`: How do two scorers come into being, and which of their variants deserve to sail?
- `seatrial.bandit.contextual`: Which arm for this visitor, and how probable was it?
- `seatrial.bandit.delayed`: The reward comes tomorrow, twice, or never: what does the policy learn?
- `seatrial.bandit.environment`: In which worlds is a policy tried before it meets a visitor?
- `seatrial.bandit.hindsight`: Would the new policy have been better?
- `seatrial.bandit.index`: Play the arm that could still be the best: how is "could" computed?
- `seatrial.bandit.moving`: The best arm of last month: is it still the best today?
- `seatrial.bandit.offpolicy`: What would another policy have earned from the same log?
- `seatrial.bandit.overlap`: Can a log tell what another policy would have earned?
- `seatrial.bandit.policy`: Which arm now, and with what probability was it chosen?
- `seatrial.bandit.segment`: One policy for each market, or one for all?
- `seatrial.bandit.simulation`: What would each policy lose in a world that is known?
- `seatrial.bandit.thompson`: How probable is it that each arm is the best, and can that be the probability of playing it?
- `seatrial.bandit.versions`: Which model version serves which factory, and when may one stop asking?
- `seatrial.base.data`: Which real data does the voyage use, and how is it split without fooling oneself?
- `seatrial.base.journal`: What did the served models do, and can every answer be accounted for?
- `seatrial.base.ledger`: Where do decisions go that everybody must see at once, and who may make them?
- `seatrial.base.record`: What is written down about a served model, and what is refused before it is written?
- `seatrial.base.settings`: What may an operator change, and what happens when they mistype it?
- `seatrial.base.spool`: How does an answer's record survive the process that sent it, for a few microseconds?
- `seatrial.drift.category`: Has something new appeared, something vanished, or something stopped arriving?
- `seatrial.drift.chart`: How soon is a change noticed, if false alarms may come only once in so many values?
- `seatrial.drift.distance`: How far has one feature moved, and could that be chance?
- `seatrial.drift.edetector`: Can the time between false alarms be guaranteed without knowing the distribution?
- `seatrial.drift.feature`: What happened to one column, in words that can be read at night?
- `seatrial.drift.kernel`: How far has the mean of many vectors moved, and what does a kernel see that the mean does not?
- `seatrial.drift.rank`: Which distance sees what, what does it cost, and is its p-value honest?
- `seatrial.drift.shift`: Which of many features have moved enough to wake somebody, and what is to be done?
- `seatrial.drift.sketch`: How little of a reference has to be kept to know how far today is from it?
- `seatrial.drift.stream`: What is a watchman told, what does he remember, and how often does he cry wolf?
- `seatrial.drift.vectors`: Have whole rows moved, when no single column has?
- `seatrial.drift.walk`: Where do two staircases part, and how far would chance alone part them?
- `seatrial.drift.window`: Which past still counts, and what do the detectors of machine learning deliver?
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
- `seatrial.stats.bayes`: How probable is it that the treatment is better, and what does it cost to be wrong?
- `seatrial.stats.betting`: What may be said of a rate after every single unit, from the very first one on?
- `seatrial.stats.bounded`: What may be said of a mean at every look, if all that is known is that no value lies outside two bounds?
- `seatrial.stats.comparison`: By how much do two means differ, and how sure are we?
- `seatrial.stats.count`: Are these counts spread as they should be, and which of them are not?
- `seatrial.stats.cuped`: How much of the noise was known before the experiment began?
- `seatrial.stats.group`: What do five planned looks cost, and what do they buy over looking all the time?
- `seatrial.stats.joint`: What must be remembered of pairs, so that ratios, clusters and covariates can be compared later?
- `seatrial.stats.mixture`: How strongly does a t statistic speak against a claim, if one may look at any time?
- `seatrial.stats.moments`: What must be remembered of a million numbers, so that their mean can be compared later?
- `seatrial.stats.multiple`: Which of many p-values are discoveries, and what may be said of all of them together?
- `seatrial.stats.peeking`: How often does a test cry wolf when somebody looks after every observation?
- `seatrial.stats.planning`: How many units, for how many weeks, to see how small an effect?
- `seatrial.stats.proportion`: How sure are we about a rate, and about the difference of two?
- `seatrial.stats.quantile`: How much slower are the slowest one per cent, and is that chance?
- `seatrial.stats.rank`: Is one arm shifted, when a mean would listen to its few largest values only?
- `seatrial.stats.ratio`: How sure are we of clicks per view, when it was users who were assigned, and not views?
- `seatrial.stats.sequential`: May I look at a running experiment, and stop it when I like what I see?
- `seatrial.stats.soundness`: Before believing a difference: did the right people arrive, were the arms alike, and does the ruler measure?
- `seatrial.stats.strata`: The units are of several kinds: how is a comparison made within each kind, and then of all together?
- `seatrial.stats.value`: A version is better: what is that worth in a year, and when is the switch paid back?
- `seatrial.stats.verdict`: What do all metrics together say: promote, continue, stop, or is the experiment itself broken?
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
