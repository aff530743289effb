"""Measure what the project claims, side by side: rivals take turns, medians are printed, and the machine is named.

usage: python -m tools.bench [NAME …]      (all but `looks` without a name: about half an hour)

serve engine journal stats bandit drift    rivals, and what every room costs
shrink                                     trains MiniLM first, then what `fit` keeps at each batch size
start idle binary kills minilm overload tracing
                                           what a server must stand; with --long 100 kills, and overload for 60 s
looks                                      the false alarms of 10,000 watched experiments a row: long
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import urllib.request
from pathlib import Path

import numpy as np

from tools.sea import LONG, SECTIONS
from tools.wire import DRIVER, cpu_s, family, load

JSON = {"Content-Type": "application/json"}
ROUNDS = 5  # rounds in which every rival has one turn
BODY = {"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": [0.1 * i for i in range(10)]}]}


def machine():
    "What it was measured on."
    info = Path("/proc/cpuinfo")
    names = (
        [x.partition(":")[2].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def table(title, head, rows):
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{c:,.2f}' if isinstance(c, float) else str(c) for c in row)} |", flush=True)


def small_mlp(path):
    "A 10-feature network, small enough that the server is what is measured."
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {"w1": (10, 32), "b1": (32,), "w2": (32, 1), "b2": (1,)}
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    steps = [("Gemm", ["x", "w1", "b1"], ["h"]), ("Relu", ["h"], ["r"]), ("Gemm", ["r", "w2", "b2"], ["y"])]
    nodes = [helper.make_node(*s) for s in steps]
    faces = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 10), ("y", 1))]
    graph = helper.make_graph(nodes, "mlp", faces[:1], faces[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@contextlib.contextmanager
def running(command, port, environ):
    "A server process that answers, ended with all its children."
    log = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(command, env=os.environ | environ, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline, url = time.monotonic() + 60, f"http://127.0.0.1:{port}/v2/models/mlp/infer"
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(url, json.dumps(BODY).encode(), JSON), timeout=5).read()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"{command} did not start: {log.read()[-800:].decode()}")
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def serve():
    "seatrial beside stock LitServe and FastAPI, same model, same requests; journal, routing and metrics on."
    from seatrial.app.demo import free_port

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp.onnx"
        small_mlp(path)
        home = {"SEATRIAL_PATHS_ARTIFACTS": f"{folder}/artifacts", "SEATRIAL_SERVE_CONTROLLER": "false"}
        cli = [sys.executable, "-m", "seatrial.app.cli"]
        subprocess.run(
            [*cli, "register", str(path), "--name", "mlp"], check=True, env=os.environ | home, stdout=subprocess.DEVNULL
        )
        ports = {name: free_port() for name in ("seatrial", "fastapi", "litserve")}
        rivals = [sys.executable, str(Path(__file__).with_name("rivals.py"))]
        commands = {"seatrial": [*cli, "serve", "--port", str(ports["seatrial"])]}
        commands |= {n: [*rivals, n, str(path), str(ports[n])] for n in ("fastapi", "litserve")}
        with contextlib.ExitStack() as stack:
            places = {n: stack.enter_context(running(c, ports[n], home)) for n, c in commands.items()}
            pids = {n: family(pid) for n, (_, pid) in places.items()}
            turns = [(name, connections) for name in places for connections in (1, 32)]
            results, costs = {turn: [] for turn in turns}, {turn: [] for turn in turns}
            for _ in range(ROUNDS):
                for (name, connections), seen in results.items():
                    before = cpu_s(pids[name])
                    seen.append(load(places[name][0], json.dumps(BODY).encode(), connections, seconds=2))
                    spent = cpu_s(pids[name]) - before
                    costs[name, connections].append(1e6 * spent / (2 * seen[-1].requests_s))
    rows = []
    for name in places:
        many, one = results[name, 32], results[name, 1]
        rows.append(
            (
                name,
                statistics.median(r.requests_s for r in many),
                statistics.median(r.p99_ms for r in many),
                statistics.median(r.p50_ms for r in one),
                round(statistics.median(costs[name, 32])),
                sum(r.errors for r in many + one),
            )
        )
    table(
        f"Serving a small ONNX model, JSON infer (driven by {DRIVER}; CPU of all processes, with the journal's drain)",
        ["server", "requests/s, 32 connections", "p99 ms", "p50 ms, 1 connection", "CPU µs a request", "errors"],
        rows,
    )
    rate, p50, cost = ({row[0]: row[k] for row in rows} for k in (1, 3, 4))
    stock, direct, ours = "litserve", "fastapi", "seatrial"
    claims = [
        ("requests/s against stock LitServe", "10 ×", rate[ours] / rate[stock], cost[stock] / cost[ours]),
        ("requests/s against FastAPI, model in process", "2 ×", rate[ours] / rate[direct], cost[direct] / cost[ours]),
        ("p50 of one connection, of stock LitServe's", "at most .35", p50[ours] / p50[stock], ""),
    ]
    table("Serving, what is asked of it", ["what", "asked", "found", "by processor time"], claims)


def engine():
    "MiniLM in full precision and in eight bits, taking turns."
    import torch

    from seatrial.base.data import rated_text
    from seatrial.engine.bundle import Signature, TensorSpec, Tokenizer
    from seatrial.engine.export import export
    from seatrial.engine.fit import fit
    from seatrial.model.quality import EncoderScorer, packaged_encoder

    torch.manual_seed(0)
    film = rated_text("film")
    texts = film["text"].to_numpy(zero_copy_only=False)[:256]
    files = {"tokenizer.json": packaged_encoder() / "tokenizer.json"}
    preparation = Tokenizer(max_tokens=48)
    tensors = preparation({"text": texts[:4]}, packaged_encoder())
    tensors.pop("truncated")
    signature = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("rating", "FP32", (-1,)),))
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(
            EncoderScorer(), tensors, Path(folder) / "a", signature=signature, preparation=preparation, files=files
        )
        found = fit(bundle, {"text": texts}, film["rating"].to_numpy()[:256], Path(folder) / "b", margin=0.5)
    rows = [(r.variant, r.size_mb, *(float(r.rows_s[b]) for b in (1, 8, 64)), r.verdict) for r in found.rows]
    table(
        "MiniLM on film snippets, tokenizing included",
        ["variant", "MB", "rows/s at 1", "at 8", "at 64", "verdict"],
        rows,
    )


def journal():
    "What one answer costs the request path."
    from seatrial.base.journal import Journal, Prediction

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for durable in ("process", "power"):
            with Journal(Path(folder) / durable, durable=durable) as book:
                for batch in (1, 64):
                    times = []
                    for turn in range(50):
                        answers = [
                            Prediction(f"{batch}-{turn}-{i}", "champion", 0.0, "", "m", "1.0.0", outputs={"y": 0.5})
                            for i in range(batch)
                        ]
                        start = time.perf_counter()
                        book.append(answers)
                        times.append(1e6 * (time.perf_counter() - start) / batch)
                    rows.append((durable, batch, statistics.median(times)))
    table("Journal: microseconds a record", ["durable", "records a call", "µs a record"], rows)


def taking_turns(rivals, rounds):
    "Median seconds of each of some calls by name, one turn a round."
    times = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seen) for name, seen in times.items()}


def two_arms(rows):
    "Metric and covariate of two equal arms, correlation 0.8, an effect of 0.002: (y, x), (y, x)."
    rng, arms = np.random.default_rng(0), []
    for effect in (0.0, 0.002):
        x = rng.standard_normal(rows // 2)
        y = rng.standard_normal(rows // 2)
        y *= 0.6
        y += 0.8 * x + effect
        arms.append((y, x))
    return arms


def by_formula(control, treatment):
    "CUPED as it stands in blog posts, with numpy alone."
    y, x = (np.append(c, t) for c, t in zip(control, treatment, strict=True))
    theta, middle = np.cov(x, y)[0, 1] / x.var(ddof=1), x.mean()
    c, t = (y - theta * (x - middle) for y, x in (control, treatment))
    return t.mean() - c.mean(), np.sqrt(c.var(ddof=1) / c.size + t.var(ddof=1) / t.size)


def by_regression(control, treatment):
    "The same by statsmodels: least squares on arm and covariate, with errors that allow unequal spreads."
    import statsmodels.api as sm

    (y, x), (w, z) = control, treatment
    table = np.column_stack([np.ones(y.size + w.size), np.repeat([0.0, 1.0], [y.size, w.size]), np.append(x, z)])
    fit = sm.OLS(np.append(y, w), table).fit(cov_type="HC1")
    return fit.params[1], fit.bse[1]


def by_cuped(control, treatment):
    "The same by seatrial."
    from seatrial.stats.cuped import cuped

    found = cuped(control, treatment).comparison
    return found.effect, (found.upper - found.lower) / 2 / 1.959964


def by_welch(control, treatment):
    "No covariate, by seatrial."
    from seatrial.stats.comparison import welch

    found = welch(control[0], treatment[0])
    return found.effect, (found.upper - found.lower) / 2 / 1.959964


def by_scipy(control, treatment):
    "No covariate, by scipy."
    from scipy.stats import ttest_ind

    interval = ttest_ind(treatment[0], control[0], equal_var=False).confidence_interval()
    return (interval.high + interval.low) / 2, (interval.high - interval.low) / 2 / 1.959964


COMPARERS = {
    "seatrial, CUPED": by_cuped,
    "numpy by the formula, CUPED": by_formula,
    "statsmodels OLS HC1, CUPED": by_regression,
    "seatrial, Welch": by_welch,
    "scipy ttest_ind": by_scipy,
}


def high_water(reset=False):
    "Most memory that this process has held, in MiB; reset to what it holds now where the system lets us."
    import resource

    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def weigh(name, rows):
    "Print how much memory one of COMPARERS takes beyond the data; called in a process of its own."
    COMPARERS[name](*two_arms(1000))  # what is loaded once does not count
    arms = two_arms(rows)
    before = high_water(reset=True)
    COMPARERS[name](*arms)
    print(high_water() - before)


def weighed(name, rows):
    "What `weigh` printed."
    script = f"from tools.bench import weigh; weigh({name!r}, {rows})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def stats(rows=10_000_000, rounds=3):
    "Comparisons of many rows beside numpy, scipy and statsmodels; summaries that grow by a few values at a time."
    arms = two_arms(rows)
    for call in COMPARERS.values():
        call(*two_arms(1000))
    found = {name: call(*arms) for name, call in COMPARERS.items()}
    times = taking_turns({name: lambda call=call: call(*arms) for name, call in COMPARERS.items()}, rounds)
    table(
        f"A difference of two means, {rows:,} rows in two arms as arrays ({arms[0][0].nbytes * 4 / 2**20:,.0f} MiB)",
        ["by", "seconds", "memory beyond the data, MiB", "effect", "standard error"],
        [(n, times[n], weighed(n, rows), *(f"{v:.6f}" for v in found[n])) for n in COMPARERS],
    )
    streams(max(100, rows // 5000))


def streams(batches=2000):
    "What a batch costs a summary that is kept, in microseconds."
    from seatrial.stats.bounded import BoundedMean
    from seatrial.stats.joint import Joint
    from seatrial.stats.moments import Moments
    from seatrial.stats.sequential import Running

    rng = np.random.default_rng(0)
    small, pairs = rng.random((batches, 2, 10)), rng.random((100, 2, 1000))
    shards = [Moments.of(x) for x in pairs[:, 0]]
    joints = [Joint.of(*x) for x in pairs]
    running, bounded = Running(), BoundedMean()
    calls = {
        "Moments.of and +, 10 values": (batches, lambda: sum(map(Moments.of, small[:, 0]), Moments())),
        "Running.update, 10 values an arm": (batches, lambda: [running.update(*x) for x in small]),
        "Running.result": (batches, lambda: [running.result for _ in small]),
        "BoundedMean.update, 10 values: for each value": (10 * batches, lambda: [bounded.update(x[0]) for x in small]),
        "merging 100 shards of Moments": (1, lambda: sum(shards, Moments())),
        "merging 100 shards of Joint, two columns": (1, lambda: sum(joints, Joint.of([], []))),
    }
    times = taking_turns({name: call for name, (_, call) in calls.items()}, ROUNDS)
    table("Summaries that grow", ["what", "µs"], [(name, 1e6 * times[name] / n) for name, (n, _) in calls.items()])


def looks(runs=10_000, units=20_000):
    "How often a true null is excluded by somebody who looks after every unit, and how long a true effect waits."
    head = ["distribution", "treated", "scale", "method", "runs", "false alarms", "standard error", "Wilson's bound"]
    table(f"False alarms at 5 %, looking after each of {units:,} units", head, alarms(runs, units))
    waits(max(50, runs // 2))


def alarms(runs, units):
    "Rows of false alarms, as they are found; what needs no proof or much time gets a twentieth of the runs."
    from seatrial.stats import peeking

    rng, few = np.random.default_rng(0), max(1, runs // 20)
    for name, draw in peeking.WORLDS.items():
        found = peeking.looks(runs, units, rng, worlds={name: draw})
        cells = {(share, lift, "always valid"): cell for (_, share, lift), cell in found.items()}
        others = {"t-test": peeking.t_test()}
        if name.startswith("Bernoulli"):
            others["betting, exact"] = bets_on_rates(0.1)
        for method, rule in others.items():
            cells[0.1, 0.0, method] = peeking.false_alarms(draw, rule, few, units, rng, share=0.1)
        for (share, lift, method), cell in cells.items():
            scale = f"relative, lift {lift:.0%}" if lift else "absolute"
            shown = f"{cell.rate:.2%}", f"{cell.standard_error:.2%}", f"{cell.upper:.2%}"
            yield name, f"{share:.0%}", scale, method, f"{cell.runs:,}", *shown


def bets_on_rates(share):
    "The rule that bets on conversions, for a treatment that gets this share of the units by chance."
    from seatrial.stats.betting import arms_evidence

    def rule(control, treatment):
        counts = [np.stack([a.n - a.mean * a.n, a.mean * a.n], -1).round() for a in (control, treatment)]
        return arms_evidence(*counts, share=share) >= np.log(20)

    return rule


def waits(runs=5000, effect=0.1, length=16_000):
    "Mean stopping time beside that of an oracle, which knows noise and effect, for bets of wrong sizes."
    from seatrial.stats.mixture import BLEND, ONE, reach

    steps, rng = np.arange(2, length + 1), np.random.default_rng(0)
    best = 1.4 * effect**2  # mixture variance that stops earliest on average: found by trying, and flat around it
    limits = {("oracle", 1.0): reach(np.inf, steps, best, 0.05, ONE)} | {
        (name, k): reach(steps - 1, steps, k * best, 0.05, bets)
        for name, bets in (("one bet", ONE), ("five bets", BLEND))
        for k in (0.01, 0.1, 1.0, 10.0, 100.0)
    }
    stops = {key: [] for key in limits}
    for _ in range(runs // 50):
        x = rng.normal(effect, 1, (50, length))
        total, squares = np.cumsum(x, axis=1)[:, 1:], np.cumsum(x * x, axis=1)[:, 1:]
        known = np.abs(total) / np.sqrt(steps)
        estimated = known / np.sqrt((squares - total**2 / steps) / (steps - 1))
        for key, limit in limits.items():
            beyond = (known if key[0] == "oracle" else estimated) >= limit
            stops[key].append(np.where(beyond.any(axis=1), steps[beyond.argmax(axis=1)], length))
    stops = {key: np.concatenate(seen) for key, seen in stops.items()}
    oracle = stops.pop(("oracle", 1.0))
    rows = []
    for (name, k), stop in stops.items():
        r = stop.mean() / oracle.mean()
        rows.append((name, f"{k:g}", f"{r:.3f}", f"{(stop - r * oracle).std() / oracle.mean() / stop.size**0.5:.3f}"))
    table(
        f"Mean stopping time over the oracle's {oracle.mean():.0f} units ({oracle.size:,} runs, effect {effect:g} sd)",
        ["sequence", "mixture variance / the oracle's", "ratio", "standard error"],
        rows,
    )


def watchmen():
    "Streaming detectors by name: how one is made, the run length asked for, and its stream in control or moved."
    from seatrial.drift.chart import CUSUM, EWMA, PageHinkley
    from seatrial.drift.edetector import EDetector
    from seatrial.drift.window import ADWIN, DDM, EDDM, KSWIN

    def noise(rng, n, moved):
        return rng.standard_normal(n) + moved

    def errors(rng, n, moved):
        return (rng.random(n) < (0.35 if moved else 0.2)).astype(float)

    return {
        "CUSUM": (lambda: CUSUM(mean=0, sd=1, run_length=500), 500, noise),
        "CUSUM, mean and sd learnt": (lambda: CUSUM(mean=None, sd=None, run_length=500), 500, noise),
        "EWMA": (lambda: EWMA(mean=0, sd=1, run_length=500), 500, noise),
        "Page-Hinkley, sd known": (lambda: PageHinkley(sd=1, run_length=500), 500, noise),
        "KSWIN, alpha 0.005": (KSWIN, "-", noise),
        "e-SR": (lambda: EDetector(mean=0.2, run_length=500), "at least 500", errors),
        "e-CUSUM": (lambda: EDetector(mean=0.2, run_length=500, form="cusum"), "at least 500", errors),
        "ADWIN, delta 0.002": (ADWIN, "-", errors),
        "DDM, 3 sd": (DDM, "-", errors),
        "EDDM, beta 0.9": (EDDM, "-", errors),
    }


def detectors(alarms=1500, most=600_000, runs=200):
    "What a value costs each streaming detector, what it delivers in control, and how late it is."
    from seatrial.drift.stream import delivered
    from seatrial.stats.comparison import NotEnough

    rows = []
    for name, (make, asked, draw) in watchmen().items():
        rng, late = np.random.default_rng(0), []
        sample, detector = draw(rng, 20_000, False).tolist(), make()
        took_s = taking_turns({name: lambda s=sample, d=detector: [d.update(x) for x in s]}, 3)[name]
        quiet = delivered(make(), lambda n, draw=draw, rng=rng: draw(rng, n, False), alarms, most)
        for _ in range(runs):
            fresh = make()
            for x in draw(rng, 200, False).tolist():
                fresh.update(x)
            late.append(next((t for t, x in enumerate(draw(rng, 3000, True), 1) if fresh.update(x).alarm), 3000))
        few = isinstance(quiet, NotEnough)
        length = f"{quiet.got} alarms in {most:,}" if few else f"{quiet.mean:,.0f} ± {quiet.se:,.0f}"
        delay = f"{np.median(late):.0f}" if np.median(late) < 3000 else "none in 3,000"
        rows.append((name, 1e6 * took_s / len(sample), asked, length, delay))
    table(
        "Streaming detectors: normal noise, moved by 1 sd, or errors at 20 %, then 35 %, after 200 values",
        ["detector", "µs a value", "run length asked", "delivered", "median delay"],
        rows,
    )


def feature(rng, rows):
    "A column of a reference and of what arrives now, moved by a hundredth."
    return rng.standard_normal(rows), rng.standard_normal(rows) + 0.01


def distances(rows=1_000_000, features=100):
    "Three tests each of many features with false discovery control, the memory that takes, and scipy's time for one."
    import scipy.stats

    from seatrial.drift.rank import NUMBERS, numbers
    from seatrial.drift.sketch import Sketch, against
    from seatrial.stats.multiple import benjamini_hochberg

    rng, spent, more, p = np.random.default_rng(0), 0.0, 0.0, []
    numbers(*feature(rng, 1000))  # what is loaded once does not count
    for _ in range(features):
        x, y = feature(rng, rows)
        before, start = high_water(reset=True), time.perf_counter()
        p.append(numbers(x, y)["ks"].p_value)
        spent, more = spent + time.perf_counter() - start, max(more, high_water() - before)
    start = time.perf_counter()
    found = int(np.sum(benjamini_hochberg(p, 0.05).rejected))
    spent += time.perf_counter() - start
    sketch = Sketch().update(x, rng)
    calls = {
        "KS, PSI, Wasserstein at once": lambda: numbers(x, y),
        "all nine distances at once": lambda: numbers(x, y, NUMBERS),
        "a sketch of the reference": lambda: Sketch().update(x, rng),
        "KS, PSI, Wasserstein from the sketch": lambda: against(sketch, y),
        "scipy ks_2samp": lambda: scipy.stats.ks_2samp(x, y, method="asymp"),
        "scipy wasserstein_distance": lambda: scipy.stats.wasserstein_distance(x, y),
        "scipy cramervonmises_2samp": lambda: scipy.stats.cramervonmises_2samp(x, y, method="asymptotic"),
    }
    times = taking_turns(calls, 1 if rows > 10**5 else ROUNDS)
    pair = (x.nbytes + y.nbytes) / 2**20
    table(
        f"Drift: {features} features, {rows:,} against {rows:,} rows, three tests each; {found} named at 5 % FDR",
        ["seconds in all", "ms a feature", "MiB beyond the data", "of one column pair"],
        [(spent, 1e3 * spent / features, more, f"{more / pair:.2f}")],
    )
    table(f"One feature, {rows:,} against {rows:,} rows", ["what", "ms"], [(k, 1e3 * t) for k, t in times.items()])


def drift():
    "Distances, then streaming detectors."
    distances()
    detectors()


def contexts(rounds=100):
    "What a visitor costs the contextual policies: ten arms, twenty features (no other bandit library is installed)."
    from seatrial.bandit.contextual import LinThompson, LinUCB, LogisticThompson

    rng, names, arms, rows = np.random.default_rng(0), [f"x{i}" for i in range(20)], [f"a{i}" for i in range(10)], []
    seen = [(arms[i % 10], dict(zip(names, x, strict=True))) for i, x in enumerate(rng.normal(size=(500, 20)).tolist())]
    for make in (LinUCB, LinThompson, LogisticThompson):
        policy = make(arms, features=names)
        acts = {
            "learn": lambda arm, who, p=policy: p.learn(arm, 0.5, who),
            "draw": lambda _, who, p=policy: p.draw(who, rng) if hasattr(p, "draw") else p.choose(who, rng),
            "choose": lambda _, who, p=policy: p.choose(who, rng),
        }
        costs = []
        for act in acts.values():
            turns = itertools.cycle(seen)
            costs.append(min(timeit.repeat(lambda a=act, t=turns: a(*next(t)), number=25, repeat=rounds)) / 25 * 1e6)
        rows.append((make.kind, *costs))
    head = ["policy", "learn, µs", "choose, µs", "choose with its probability, µs"]
    table("Contextual policies: 10 arms, 20 features", head, rows)


def bandit(runs=1000, steps=(5_000, 20_000), turns=2_000, draws=1_000):
    "What the default policies lose, on time and late, what a log says of another policy, and what a choice costs."
    from seatrial.bandit.environment import Stationary
    from seatrial.bandit.index import IMED, UCB1, lai_robbins
    from seatrial.bandit.simulation import compare
    from seatrial.bandit.thompson import Thompson

    worlds = {
        "two arms (.9, .8)": [0.9, 0.8],
        "ten arms (.1, .05, .02, .01)": [0.1, *[0.05] * 3, *[0.02] * 3, *[0.01] * 3],
    }
    targets = {"imed": (9.3, 82.2), "thompson": (9.3, 92.0), "ucb1": ("-", "-")}
    rows = []
    for i, (name, rates) in enumerate(worlds.items()):
        world = Stationary([f"{a}" for a in range(len(rates))], rates, shuffled=True)
        makers, sailed = {"imed": IMED, "thompson": Thompson, "ucb1": UCB1}, max(2, runs // (1, 10)[i])
        found = compare(makers, world, steps[i], sailed, np.random.default_rng(i))
        limit = lai_robbins(rates) * float(np.log(steps[i]))
        rows += [(name, f"{steps[i]:,}", sailed, p, *found.regret(p), targets[p][i], limit) for p in makers]
    head = ["world", "steps", "runs", "policy", "regret", "standard error", "asked for", "Lai-Robbins constant x ln T"]
    table("Regret, arms dealt anew for each run, the same luck for all policies", head, rows)
    belated(worlds, max(2, runs // 5), steps)
    hindsight(draws)
    chosen_and_learned(turns)


def belated(worlds, runs, steps, delay=1_000):
    "Regret with every reward a thousand steps late, against what blindness costs in them and 1.05 times the rest."
    from seatrial.bandit.environment import Stationary
    from seatrial.bandit.index import IMED
    from seatrial.bandit.simulation import sailed
    from seatrial.bandit.thompson import Thompson

    rows = []
    for i, (name, rates) in enumerate(worlds.items()):
        world = Stationary([f"{a}" for a in range(len(rates))], rates, shuffled=True)
        lost = {p: [] for p in ("thompson", "imed, virtual plays")}
        for fate in np.random.default_rng(i).spawn(max(2, runs // (1, 5)[i])):
            course, seed = world.course(steps[i], fate), fate.integers(2**63)
            slow = dataclasses.replace(course, delay=delay)
            pair = [sailed(Thompson(world.arms), c, np.random.default_rng(seed)).regret[-1] for c in (course, slow)]
            lost["thompson"].append(pair)
            now = sailed(IMED(world.arms), course, np.random.default_rng(seed)).regret[-1]
            lost["imed, virtual plays"].append((now, awaited(slow)))
        blind = delay * (max(rates) - float(np.mean(rates)))
        for policy, pairs in lost.items():
            now, late = np.array(pairs).T
            over = late - 1.05 * now
            error = float(over.std(ddof=1)) / len(over) ** 0.5
            means = float(now.mean()), float(late.mean())
            rows.append((f"late, {name}", len(over), policy, *means, float(over.mean()), error, blind))
    head = [
        "world",
        "runs",
        "policy",
        "on time",
        "late",
        "late - 1.05 x on time",
        "standard error",
        "at most (blindness)",
    ]
    table(f"Regret with every reward {delay:,} steps late, paired with the same runs on time", head, rows)


def awaited(course):
    "Regret of IMED that counts what it waits for as virtual plays, outcomes by request id."
    from seatrial.bandit.delayed import delayed
    from seatrial.bandit.index import IMED

    policy, rng, plays, paid, lost = delayed(IMED(course.arms), virtual=True), np.random.default_rng(0), {}, [], 0.0
    for t, rates in enumerate(course.rates):
        a = course.arms.index(policy.choose(None, rng, request_id=f"{t}").arm)
        paid.append(course.reward(a, t, plays.get(a, 0)))
        plays[a], lost = plays.get(a, 0) + 1, lost + float(rates.max() - rates[a])
        if t >= course.delay:
            policy.outcome(f"{t - course.delay}", paid[t - course.delay])
    return lost


def hindsight(draws):
    "What the random week of the Open Bandit data says of Thompson sampling, beside what Thompson's own log shows."
    from seatrial.bandit.hindsight import evaluate
    from seatrial.bandit.offpolicy import ESTIMATORS
    from seatrial.bandit.overlap import Log
    from seatrial.base.data import open_bandit
    from seatrial.stats.proportion import wilson

    shop, names = open_bandit("all"), ("item_id", "click", "propensity_score", "position")
    policy = np.array(shop["policy"].to_pylist())
    column = {name: shop[name].to_numpy(zero_copy_only=False) for name in names}
    floors = {"random": 1 / 80, "bts": 0.0}
    chance, bts = (Log(range(80), *(column[c][policy == p] for c in names), least=floors[p]) for p in floors)
    habit = {place: np.bincount(bts.chosen[bts.contexts == place], minlength=80) for place in (1, 2, 3)}
    target = np.array([habit[place] / habit[place].sum() for place in chance.contexts.tolist()])
    how, base, clicks = {"interval": "bootstrap", "runs": draws}, float(chance.rewards.mean()), int(bts.rewards.sum())
    found = {e: evaluate(chance, target, e, rng=np.random.default_rng(0), **how) for e in ESTIMATORS}
    found |= {"dr, at every look": evaluate(chance, target)}
    rows = [(e, *(100 * x for x in (v.value, v.lower, v.upper)), v.value / base) for e, v in found.items()]
    own, seen = clicks / bts.n, wilson(clicks, bts.n)
    rows.append(("Thompson's own log", 100 * own, 100 * seen.lower, 100 * seen.upper, own / base))
    head = ["estimator", "clicks, %", "lower", "upper", "times random"]
    table(f"Open Bandit, random log of {chance.n:,} displays asked about Thompson sampling", head, rows)


def chosen_and_learned(turns):
    "Microseconds of each policy's choice and learning."
    from seatrial.bandit.contextual import LinThompson, LinUCB, LogisticThompson
    from seatrial.bandit.index import IMED, KLUCB, UCB1, UCBTuned
    from seatrial.bandit.policy import EpsilonGreedy, floored
    from seatrial.bandit.thompson import GaussianThompson, Thompson

    rng, two, ten, names = (
        np.random.default_rng(0),
        ["a", "b"],
        [f"{i}" for i in range(10)],
        [f"x{i}" for i in range(20)],
    )
    visitors = [dict(zip(names, row, strict=True)) for row in rng.standard_normal((100, 20)).tolist()]
    makers = {
        "epsilon-greedy": EpsilonGreedy,
        "ucb1": UCB1,
        "ucb-tuned": UCBTuned,
        "kl-ucb": KLUCB,
        "imed": IMED,
        "thompson": Thompson,
        "gaussian thompson": GaussianThompson,
        "thompson with a floor": lambda arms: floored(Thompson(arms)),
    }
    calls = {}
    for name, make in makers.items():
        policy, seen = make(two), [None] * turns
        calls |= timed(f"{name}, 2 arms", policy, lambda p=policy: p.choose(None, rng), seen)
        if name == "thompson":
            calls |= timed("thompson without propensity, 2 arms", policy, lambda p=policy: two[p.draw(rng)], seen)
    for name, kind in (("linear", LinThompson), ("linucb", LinUCB), ("logistic", LogisticThompson)):
        policy, seen = kind(ten, features=names), [visitors[t % 100] for t in range(turns)]
        calls |= timed(f"{name}, 10 arms, 20 features", policy, lambda p=policy: p.choose(visitors[0], rng), seen)
        if name != "linucb":
            draw = lambda p=policy: ten[p.draw(visitors[0], rng)]  # noqa: E731
            calls |= timed(f"{name} without propensity, 10 arms, 20 features", policy, draw, seen)
    times = taking_turns({key: call for key, (call, _) in calls.items()}, ROUNDS)
    rows = [(name, *(1e6 * times[name, part] / turns for part in ("choose", "learn"))) for name, _ in calls][::2]
    table("Bandits: a choice and what it teaches, in microseconds", ["policy", "choose", "learn"], rows)


def timed(name, policy, choose, contexts):
    "The loops that are timed for one policy, after fifty plays of each arm."
    for t in range(50 * len(policy.arms)):
        policy.learn(policy.arms[t % len(policy.arms)], float(t % 3 == 0), contexts[t % len(contexts)])
    arm = policy.arms[0]
    return {
        (name, "choose"): (lambda: [choose() for _ in contexts], None),
        (name, "learn"): (lambda: [policy.learn(arm, 1.0, context) for context in contexts], None),
    }


def shrink(batches=(1, 2, 4, 8, 16, 32, 64), seconds=4.0):
    "MiniLM as the demo trains it: what `fit` keeps beside the plain graph, at every batch size, and what that costs."
    from seatrial.app import story

    with tempfile.TemporaryDirectory() as folder:
        told = story.Story(settings=None, pace=story.Pace(), folder=Path(folder))
        told.parts = story.material(told.pace)
        story.train_encoder(told)
        shrunk(told.bundles["encoder"], told.parts, Path(folder), batches, seconds)


def shrunk(plain, parts, folder, batches, seconds):
    "Search the variants of a trained scorer, and print what is kept beside the plain graph."
    from seatrial.app.story import arrays
    from seatrial.engine.fit import fit
    from seatrial.engine.race import losses
    from seatrial.engine.runtime import load

    inputs, truth = arrays(parts["exam"])
    learnt, _ = arrays(parts["valid"].slice(0, 128))
    start = time.perf_counter()
    found = fit(plain, inputs, truth, folder / "kept", calibration=learnt)
    spent = time.perf_counter() - start
    lines = []
    for r in found.rows:
        times = (r.latency_ms.get(b, float("nan")) for b in (1, 64))
        why = r.reason.replace(str(folder), "…")
        lines.append((r.variant, r.size_mb, r.memory_mb, *times, f"{r.loss:.4f}", r.verdict, why))
    head = ["variant", "MB", "peak MB", "ms for 1", "for 64", "loss", "verdict", "why"]
    table(f"MiniLM on film snippets: the search of `fit`, {spent:.0f} s; {loaded()}", head, lines)
    held, rated = arrays(parts["traffic"].slice(0, 3000))  # neither trained, calibrated nor chose
    for what, clock, threads in (
        ("time on the wall, threads as served", time.perf_counter, None),
        ("processor time on one thread, which neighbours disturb less", time.process_time, 1),
    ):
        engines = {n: load(b, threads=threads) for n, b in (("plain", plain), ("kept", found.kept))}
        side_by_side(engines, held, batches, seconds, clock, what)
    lost = {n: losses(e, held, rated, "squared_error") for n, e in engines.items()}
    cost = {n: (np.sqrt(v).mean(), 100 * (1 - v.mean() / rated.var())) for n, v in lost.items()}
    rows = [(n, f"{mae:.4f}", f"{r2:.2f}") for n, (mae, r2) in cost.items()]
    gap = lost["kept"] - lost["plain"]
    points, error = (100 * v / rated.var() for v in (gap.mean(), gap.std() / len(gap) ** 0.5))
    rows.append(("lost", f"{cost['kept'][0] - cost['plain'][0]:+.4f}", f"{points:+.2f} ± {1.96 * error:.2f}"))
    table(f"What it costs, on {len(rated):,} other snippets", ["graph", "mean absolute error", "R², points"], rows)


def loaded():
    "How busy the machine is, in words."
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else "load unknown"


def side_by_side(engines, rows, batches, seconds, clock, what):
    "Race a plain and a kept engine, and print how many times as fast the kept one is at each batch size."
    from seatrial.engine.race import race, speed_of

    before = loaded()
    times, lines = race(engines, rows, batches, seconds, clock), []
    for b, ms in times.items():
        s = speed_of(ms["plain"], ms["kept"], b, 0.05 / len(batches))
        medians = (float(np.median(ms[n])) for n in engines)
        p95 = float(np.quantile(ms["kept"], 0.95))
        lines.append((b, *medians, s.ratio, f"{s.lower:.2f} to {s.upper:.2f}", p95, s.rounds))
    head = ["rows", "plain ms", "kept ms", "times as fast", "interval, all together 95 %", "kept p95 ms", "rounds"]
    table(f"What is kept beside the plain graph, tokenizing included, taking turns: {what}; {before}", head, lines)


def tabled(section):
    "Print the tables of a section of tools/sea.py, as they are found."
    for title, head, rows in section:
        table(title, head, rows)


def main():
    usual = {"serve": serve, "engine": engine, "journal": journal, "stats": stats, "bandit": bandit, "drift": drift}
    usual |= {"shrink": shrink}
    known = usual | {"looks": looks}
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("what", nargs="*", help=f"any of {', '.join([*known, *SECTIONS])}")
    args.add_argument("--long", action="store_true", help="100 kills, and overload for 60 s")
    asked = args.parse_args()
    wanted, more = asked.what or [*usual, *SECTIONS], LONG if asked.long else {}
    known |= {name: lambda n=name: tabled(SECTIONS[n](**more.get(n, {}))) for name in SECTIONS}
    if unknown := set(wanted) - known.keys():
        args.error(f"what must be among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    print(machine())
    for name in wanted:
        known[name]()


if __name__ == "__main__":
    main()
