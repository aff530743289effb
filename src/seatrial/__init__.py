"""Takes a machine-learning model from the notebook in which it is built to production, and keeps it honest there.

Modules:

- `seatrial.app.cli`: What does a person type, and what does a script read from it?
- `seatrial.app.comparing`: How does a person start a comparison, look at it, and overrule it?
- `seatrial.app.console`: How does a person's line become a call, and a result something that both people and scripts can read?
- `seatrial.app.demo`: What does it take to bring a better model to production, and to keep a worse one out?
- `seatrial.app.loading`: How does a person find out what a server can bear?
- `seatrial.app.serving`: What does a person type to serve, to ask, and to hand out keys?
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
- `seatrial.base.archive`: How are three stores asked as one, while records move between them?
- `seatrial.base.data`: Which real data does the voyage use, and how is it split without fooling oneself?
- `seatrial.base.days`: Where do records go that nobody asks for every hour, and what if the move is cut short?
- `seatrial.base.journal`: What did the served models do, and can every answer be accounted for?
- `seatrial.base.ledger`: Where do decisions go that everybody must see at once, and who may make them?
- `seatrial.base.record`: What is written down about a served model, and what is refused before it is written?
- `seatrial.base.settings`: What may an operator change, and what happens when they mistype it?
- `seatrial.base.spool`: How does an answer's record survive the process that sent it, for a few microseconds?
- `seatrial.base.tending`: Who moves records from store to store, while everybody else is busy answering?
- `seatrial.client.asynchronous`: How does one program keep a hundred questions in the air?
- `seatrial.client.blocking`: How does a program ask a server, and what does it never have to think about?
- `seatrial.client.ceiling`: What is the highest rate at which 99 of 100 users are still served in time?
- `seatrial.client.connection`: How does a request travel on an event loop, at little cost to the one who asks?
- `seatrial.client.dialogue`: What does a client say to a server, sync or async?
- `seatrial.client.load`: What does a server do under a stated load, and how sure is its 99th percentile?
- `seatrial.client.message`: What does a request look like on the wire, and when is a reply complete?
- `seatrial.client.patience`: When does asking again help, and when does it keep a server on its knees?
- `seatrial.client.question`: How do arrays become a request, and a response arrays again, without anybody naming a datatype?
- `seatrial.client.replay`: How do we ask a server as its users do, a thousand times, and believe the latencies?
- `seatrial.client.traffic`: Who comes, and when?
- `seatrial.drift.anomaly`: Is the service ill, or is it only Monday?
- `seatrial.drift.bend`: How honest is a score, and how sure are we of that?
- `seatrial.drift.category`: Has something new appeared, something vanished, or something stopped arriving?
- `seatrial.drift.chart`: How soon is a change noticed, if false alarms may come only once in so many values?
- `seatrial.drift.distance`: How far has one feature moved, and could that be chance?
- `seatrial.drift.edetector`: Can the time between false alarms be guaranteed without knowing the distribution?
- `seatrial.drift.feature`: What happened to one column, in words that can be read at night?
- `seatrial.drift.kernel`: How far has the mean of many vectors moved, and what does a kernel see that the mean does not?
- `seatrial.drift.loss`: A regressor is live and the truth comes next month: how large is its error now?
- `seatrial.drift.rank`: Which distance sees what, what does it cost, and is its p-value honest?
- `seatrial.drift.season`: What is ordinary at this hour of the week, and how rare is what is not?
- `seatrial.drift.shift`: Which of many features have moved enough to wake somebody, and what is to be done?
- `seatrial.drift.sketch`: How little of a reference has to be kept to know how far today is from it?
- `seatrial.drift.stream`: What is a watchman told, what does he remember, and how often does he cry wolf?
- `seatrial.drift.symptom`: What do traffic, latency, errors, predictions and silence each have to show before somebody is woken?
- `seatrial.drift.trust`: How far may a number be believed that no label has checked?
- `seatrial.drift.unlabelled`: A classifier is live and its labels come next month: how well is it doing now?
- `seatrial.drift.vectors`: Have whole rows moved, when no single column has?
- `seatrial.drift.walk`: Where do two staircases part, and how far would chance alone part them?
- `seatrial.drift.window`: Which past still counts, and what do the detectors of machine learning deliver?
- `seatrial.engine.archive`: How can a stranger's torch program be opened without running what he wrote?
- `seatrial.engine.bundle`: What must travel with a graph so that a stranger's process can answer with it?
- `seatrial.engine.call`: What do seven libraries that run models have in common, and what when memory runs out?
- `seatrial.engine.content`: What is in a file, whatever its name says?
- `seatrial.engine.coreml`: What does an Apple device need of a bundle, and what can be promised without one?
- `seatrial.engine.estimator`: Can a scikit-learn model stand where a graph stands?
- `seatrial.engine.export`: How does a trained model, from whatever library, become a graph?
- `seatrial.engine.fit`: Which form of a model deserves to be served on this machine?
- `seatrial.engine.fuse`: When is one large operation faster than eleven small ones?
- `seatrial.engine.lengths`: Of a batch of texts, which ones should be computed together?
- `seatrial.engine.levels`: What is worth trying, if what counts is speed, or memory, or both?
- `seatrial.engine.memory`: How many rows fit, and how is that found out without dying of it?
- `seatrial.engine.narrow`: What if only the weights get smaller, to a byte, half a byte, or half a float?
- `seatrial.engine.pace`: What will a batch cost, and how soon is it known that the machine has become slower?
- `seatrial.engine.pack`: How much of a batch is padding, and who says that it must be computed?
- `seatrial.engine.parity`: Is the graph that will serve really the model that was trained?
- `seatrial.engine.preparation`: How does text become numbers, without a line of code travelling with the model?
- `seatrial.engine.program`: Which forms of a torch model can be run, and which of them without the code that made them?
- `seatrial.engine.prune`: Does a zero cost less than a number?
- `seatrial.engine.quantize`: What is lost when a weight becomes one byte, and what is won?
- `seatrial.engine.race`: How are two engines compared when the machine never stands still?
- `seatrial.engine.remote`: Can a model on another machine be run as if it were here?
- `seatrial.engine.runtime`: Can one face run every graph, and say no before the graph does?
- `seatrial.engine.sensitive`: Which few layers spoil the answers of all, and what does it cost to let them off?
- `seatrial.engine.session`: What must be said to ONNX Runtime before it may run a graph?
- `seatrial.engine.signature`: What may a stranger send, and what does a refusal have to say?
- `seatrial.engine.sizes`: How does an engine that was built for batches of 4 and 8 answer 1, 5 or 11 rows?
- `seatrial.engine.static`: Can the range of a layer's activations be known before they come?
- `seatrial.engine.surgery`: How is a graph changed without changing its answers?
- `seatrial.engine.tensorrt`: When may an engine that took minutes to build be used again?
- `seatrial.engine.translate`: How does a model become a graph, whatever library it was trained in?
- `seatrial.engine.trees`: Can gradient boosting leave Python without a single row falling into another leaf?
- `seatrial.engine.watching`: Which numbers of a request are worth remembering, and what does it cost to take them down?
- `seatrial.model.aspects`: How good is a piece of content, which aspect says so, and what if one of them is missing?
- `seatrial.model.calibrated`: How does a promise about probabilities get into the file that serves?
- `seatrial.model.card`: What should somebody know who decides about a model without having built it?
- `seatrial.model.click`: How often will this be clicked, if the log was made by a policy that had favourites?
- `seatrial.model.engagement`: How many will come in this hour of next week, and how far may the answer be off?
- `seatrial.model.filter`: How much spam is caught if at most one honest message in a hundred may be stopped?
- `seatrial.model.fusion`: What should a network say when half of what it asked for did not come?
- `seatrial.model.process`: What can be learnt from 176 runs of a process that does not stand still?
- `seatrial.model.quality`: How good would a reader say this text is, and what is the least network that can tell?
- `seatrial.model.slices`: For whom is this model worse than it looks?
- `seatrial.model.trend`: Will next week bring more than this one, how much more, and who says so best?
- `seatrial.operate.controller`: Who turns evidence into decisions, when nobody is watching?
- `seatrial.operate.helm`: How does somebody start, end or take back a trial, so that everybody follows and nothing is half done?
- `seatrial.registry.manifest`: What may be served, and is it still what was registered?
- `seatrial.registry.numbering`: What does a version say about itself, and what does its number promise?
- `seatrial.registry.tracking`: How do we keep books in MLflow without paying for it everywhere?
- `seatrial.registry.versions`: What exists, where does it come from, and who served when?
- `seatrial.report.runner`: How does a notebook become a report that nobody has to watch?
- `seatrial.report.story`: How is a trial told to somebody who was asleep?
- `seatrial.report.template`: What can a report be told, and how is a typing mistake found before it costs ten minutes?
- `seatrial.rollout.canary`: When does a new version get more traffic, and when is it taken off?
- `seatrial.rollout.evidence`: What did each variant do, counted in people and not in clicks?
- `seatrial.rollout.memory`: What do all decisions so far amount to, and is anything left to be done?
- `seatrial.rollout.split`: Who gets which version, and can anybody be moved back?
- `seatrial.rollout.trial`: What is being tried, how far has it come, and who says so?
- `seatrial.serve.access`: Who asked what, when, and how did it end, at a price that a busy server can pay?
- `seatrial.serve.admission`: Who may wait, and who is told at once to come back later?
- `seatrial.serve.annex`: How does a server open a second door, for gRPC, and what does it cost while it is shut?
- `seatrial.serve.answers`: What is said to each thing that may be asked, in the dialect of whoever asks?
- `seatrial.serve.arrival`: What is owed to a request when its batch comes back, and what when it never does?
- `seatrial.serve.batching`: Many models, several workers, one queue: what runs next, and who is told to come back later?
- `seatrial.serve.berth`: Where does a worker come from, on which device does it lie, and how soon is the next one there?
- `seatrial.serve.binary`: How do tensors travel as the bytes that they are, and what else does a Triton client say?
- `seatrial.serve.bond`: How does a keeper know what its worker was doing when it died, and how does neither outlive the other?
- `seatrial.serve.breaker`: When should a server stop asking a version that fails, and how does it find out that it works again?
- `seatrial.serve.cache`: Which answers need not be computed, because they just were?
- `seatrial.serve.call`: How does a request that comes in pieces, packed, late or not at all become something to answer?
- `seatrial.serve.census`: What is counted of a batch, and what is said of it to those who follow a request?
- `seatrial.serve.companion`: Who runs beside a server, only while there is something to do?
- `seatrial.serve.computation`: What happens to a batch between the lane and the engine, and who is to blame when it fails?
- `seatrial.serve.contract`: What may be asked of a server, by whom, and how does a machine read that?
- `seatrial.serve.dashboard`: Which questions does somebody ask who is on call, and does each picture really ask the server?
- `seatrial.serve.desk`: What do all connections of a process share, and how does one answer leave?
- `seatrial.serve.detour`: Which way does a request take when the version that was meant is not there, or is known to fail?
- `seatrial.serve.encoding`: How does a server read what was compressed without being flooded by it?
- `seatrial.serve.envelope`: How do tensors get into messages and out again, without a guess on the way?
- `seatrial.serve.exposition`: What does a server tell whoever watches it, and how does a dashboard know that it asks for what is told?
- `seatrial.serve.fallback`: Who answers when the version that was meant cannot, and how is that never taken for its prediction?
- `seatrial.serve.fleet`: How do several processes start, serve and fail as if they were one?
- `seatrial.serve.frames`: How do arrays of many requests travel between two processes without being touched?
- `seatrial.serve.front`: How does HTTP come in, and how does everything leave as one response?
- `seatrial.serve.gauge`: What is true at this moment that nobody counts?
- `seatrial.serve.gossip`: How does one process answer for all of them?
- `seatrial.serve.guard`: What is asked of a request before anybody reads what it wants?
- `seatrial.serve.household`: What does a server's main process do all day, and how does it leave the house in order?
- `seatrial.serve.inquest`: A worker has died: was it murder, an accident or a habit?
- `seatrial.serve.intake`: How does a body become memory that a model can read, in a few microseconds and without being trusted?
- `seatrial.serve.keeper`: When a worker dies, who starts the next one, how soon, and when not any more?
- `seatrial.serve.keys`: Who may ask this server for what, and what is lost when its file of keys is?
- `seatrial.serve.lane`: How do a thousand small requests reach a few models without a thousand messages?
- `seatrial.serve.limits`: How much may one client ask before others suffer, and what does a polite client need to know?
- `seatrial.serve.logbook`: What is put on record about a batch of answers, before anybody hears them?
- `seatrial.serve.messages`: How is the protocol written as numbered fields, so that clients without JSON can speak it?
- `seatrial.serve.metrics`: What does it cost to count every request, and what may be left to the moment when somebody asks?
- `seatrial.serve.office`: What does a server know before anybody asks, and what must it ask only once?
- `seatrial.serve.openapi`: How does somebody who has never seen this server find out how to talk to it?
- `seatrial.serve.outcome`: What became of a prediction, and how is it told exactly once?
- `seatrial.serve.passage`: What happens to a request between its body and its answer, and who steps in when something fails?
- `seatrial.serve.pool`: How large is a model, when does it count as loaded, and how does it leave without anybody noticing?
- `seatrial.serve.protocol`: What may a client say, and what does it hear when it says it wrong?
- `seatrial.serve.ragged`: Which requests may share a batch, and how does nobody notice?
- `seatrial.serve.recall`: When may a request be answered without being computed?
- `seatrial.serve.reception`: What can be said without asking a model: is the server well, what does it hold, and what has it counted?
- `seatrial.serve.redact`: What may a log remember of the people whose requests it saw?
- `seatrial.serve.remedy`: What becomes of a request that its version could not answer?
- `seatrial.serve.repository`: What does a server say of the models it has, how they are doing, and what may be asked of them?
- `seatrial.serve.routing`: Which version answers this request, and how soon does every server know that it changed?
- `seatrial.serve.rpc`: What may be called over gRPC, and how is it the same server as over HTTP?
- `seatrial.serve.scoring`: How do tables become tensors, so that what scored against MLflow's server scores here?
- `seatrial.serve.server`: How is a server started, awaited and stopped?
- `seatrial.serve.spans`: How do spans leave a process that has no time for them?
- `seatrial.serve.stream`: How much may one connection ask for before it is answered, and how long may it take?
- `seatrial.serve.switchboard`: How do calls of gRPC get from a connection to an answer, inside a loop that belongs to somebody else?
- `seatrial.serve.tenancy`: Which models may stay in memory, and who has to go when another one comes?
- `seatrial.serve.ticket`: What must be remembered of a request while it is away, and how is it told the answer?
- `seatrial.serve.trace`: Where did this one slow request spend its time, and who else was in its batch?
- `seatrial.serve.turn`: Of all who wait for one model, who goes next, and how long will it take?
- `seatrial.serve.vigil`: Who looks after those who wait, and after workers that say nothing?
- `seatrial.serve.wire`: How little may stand between a socket and a prediction?
- `seatrial.serve.wording`: How do the numbers of a whole batch become many answers, written once?
- `seatrial.serve.worker`: What runs at the far end of the lane, and what may go wrong there without anybody noticing?
- `seatrial.stats.bayes`: How probable is it that the treatment is better, and what does it cost to be wrong?
- `seatrial.stats.betting`: What may be said of a rate after every single unit, from the very first one on?
- `seatrial.stats.bounded`: What may be said of a mean at every look, if all that is known is that no value lies outside two bounds?
- `seatrial.stats.calibration`: When it says seventy per cent, does it happen seven times in ten?
- `seatrial.stats.comparison`: By how much do two means differ, and how sure are we?
- `seatrial.stats.conformal`: What can be promised about the next row, whatever the model and whatever the distribution?
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
- `seatrial.tune.checkpoint`: How does a run that was cut off go on as if nothing had happened?
- `seatrial.tune.continual`: After ten tasks, what does a network still know of the first?
- `seatrial.tune.crew`: How do several processes train one network, and end in the weights that one would have found?
- `seatrial.tune.distill`: Can a small network answer like a large one, and who decides that it may?
- `seatrial.tune.ewc`: How can a network keep what it knows when none of the old rows may be kept?
- `seatrial.tune.feed`: How do rows become tensors, and how much of the work is padding?
- `seatrial.tune.lora`: How many numbers must change for an encoder to learn a new task?
- `seatrial.tune.niche`: When does a model for one kind of text beat one model for all?
- `seatrial.tune.progressive`: How do you teach an old network a new task without making it forget what it knows?
- `seatrial.tune.recipe`: What is a training run asked, and what does it leave behind?
- `seatrial.tune.replay`: Which two hundred of all rows ever seen should a model keep, and what should it do with them?
- `seatrial.tune.search`: Which settings suit this network, and is a clever search worth more than luck?
- `seatrial.tune.step`: What happens between a batch of rows and the next weights?
- `seatrial.tune.training`: What does a training run promise, whoever asks for it and whatever happens on the way?
- `seatrial.tune.update`: What if a model has learned something new, and lost something old?"""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # what a type checker takes for true: it should know the face as it is
if TYPE_CHECKING:
    from .base.journal import Journal
    from .client.asynchronous import AsyncClient
    from .client.blocking import Client
    from .drift.shift import shift
    from .engine.fit import fit
    from .engine.runtime import load
    from .operate.controller import Controller
    from .registry.versions import Registry, register
    from .rollout.trial import Plan
    from .stats.sequential import always_valid

FACE = {  # name -> the room and module that it lives in; loaded on first use
    "AsyncClient": "client.asynchronous",
    "Client": "client.blocking",
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
