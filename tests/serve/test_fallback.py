"A version that cannot answer: who answers in its place, that it says so, and that nothing takes it for a prediction."

import json
import re
import urllib.request
from contextlib import closing

import onnx
import pytest
from onnx import TensorProto, helper

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.engine import bundle as bundles
from seatrial.rollout.evidence import evidence
from seatrial.rollout.split import assign
from seatrial.rollout.trial import Gate, Plan, plan_to_dict
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, tensor, until

BAD = tensor([[3e38]])  # times three it is no number any more, and the version has failed


def threefold(folder, default):
    "A bundle that answers three times what it is asked, and states a default, or none."
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in "xy")
    w = helper.make_tensor("w", TensorProto.FLOAT, [1], [3.0])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "threefold", [x], [y], [w])
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    sides = ((bundles.TensorSpec(name, "FP32", (-1, 1)),) for name in "xy")
    card = {} if default is None else {"default": {"y": default}}
    return bundles.write(folder, signature=bundles.Signature(*sides), graph=file, card=card)


def served(home, default=2.5, versions=("1.0.0",), **more):
    "A server whose breakers open after four failures and stay open."
    shelve(home, {"sum": dict.fromkeys(versions, default)}, threefold)
    wishes = {"BREAKER_MIN": "4", "BREAKER_OPEN_S": "60"} | more
    its = settings_for(
        home, SEATRIAL_CACHE_SIZE_MB="1", **{f"SEATRIAL_GUARD_{key}": word for key, word in wishes.items()}
    )
    return its, launch(settings=its, port=0, log=home / "log")


def asked(url, body, path="/v2/models/sum/infer", headers=()):
    "Status, headers and document of one request."
    with Speaker(url) as speaker:
        status, found, said = speaker.say(body, path, headers=headers)
        return status, found, json.loads(said)


def told(url, body):
    "What one request hears: its numbers and who gave them."
    status, _, said = asked(url, body)
    return (status, said["outputs"][0]["data"], said["parameters"].get("fallback", "")) if status == 200 else (status,)


def counter(url, name):
    "All samples of a counter, by the values of their labels (in the order of the labels' names)."
    with urllib.request.urlopen(f"{url}/metrics") as page:
        lines = re.findall(rf"^seatrial_{name}\{{(.*)\}} (\S+)$", page.read().decode(), re.MULTILINE)
    return {tuple(re.findall(r'="([^"]*)"', labels)): float(value) for labels, value in lines}


def recorded(its):
    with closing(Journal.open(its)) as journal:
        return journal.read("predictions").to_pylist()


def test_an_open_champion_gives_what_it_said_before_then_what_it_states_and_says_which(tmp_path):
    its, launched = served(tmp_path)
    with launched as running:
        url = running.url
        assert told(url, tensor([[1.0], [2.0]], id="first")) == (200, [3, 6], "")
        for i in range(8):  # each of them fails, and is answered all the same
            assert told(url, tensor([[3e38]], id=f"bad{i}")) == (200, [2.5], "default")
        assert counter(url, "breaker_opened_total") == {("sum", "1.0.0"): 1}
        assert told(url, tensor([[1.0], [2.0]], id="again")) == (200, [3, 6], "cached")
        assert told(url, tensor([[1.0], [7.0]], id="new")) == (200, [2.5, 2.5], "default")
        status, headers, said = asked(url, b'{"inputs": [[1.0]]}', "/invocations", ["Content-Type: application/json"])
        assert (status, headers["x-seatrial-fallback"], said) == (200, "default", {"predictions": [[2.5]]})
        assert asked(url, tensor([["x"]]))[0] == 400  # who asks for nonsense hears so
        by = counter(url, "fallbacks_total")
        assert by["cached", "sum", "1.0.0"] == 1 and by["default", "sum", "1.0.0"] == 10
        assert sum(counter(url, "requests_total").values()) == 1  # only one was computed
    rows = {(row["request_id"], row["variant"]): row for row in recorded(its)}
    assert [key for key, row in rows.items() if row["status"] == "ok"] == [("first", "champion")]
    assert rows["again", "fallback"]["status"] == "fallback" and rows["again", "fallback"]["cached"]
    assert rows["new", "fallback"]["outputs"] == '{"y":[[2.5],[2.5]]}' and not rows["new", "fallback"]["cached"]
    assert ("again", "champion") not in rows  # it was not asked
    assert rows["bad0", "champion"]["status"] == "error" and rows["bad0", "fallback"]["trial"] == ""


@pytest.mark.parametrize(
    ("order", "heard"), [("", 503), ("champion", 503), ("cached", "cached"), ("default, cached", "default")]
)
def test_who_answers_and_in_which_order_is_for_the_operator_to_say(order, heard, tmp_path):
    _, launched = served(tmp_path, FALLBACK=order)
    with launched as running:
        url = running.url
        assert told(url, tensor([[1.0]])) == (200, [3], "")
        for _ in range(8):
            asked(url, BAD)
        status, headers, said = asked(url, tensor([[1.0]]))
        if heard == 503:
            assert status == 503 and int(headers["retry-after"]) > 10 and "keeps failing" in said["error"]
        else:
            assert status == 200 and said["parameters"]["fallback"] == heard


def test_a_challenger_that_fails_leaves_its_errors_to_the_trial_and_its_clients_to_others(tmp_path):
    its, launched = served(tmp_path, versions=("1.0.0", "1.1.0"))
    with launched as running, closing(Journal.open(its)) as journal:
        url, gates = running.url, (Gate("error_rate", margin=0.02),)
        plan = Plan("spring", "sum", "1.0.0", "1.1.0", gates=gates, kind="ab", stages=(0.9,), units_min=2)
        units = [
            u for u in map(str, range(60)) if assign(u, plan.salt, {"champion": 0.1, "challenger": 0.9}) == "challenger"
        ]
        journal.decide(Decision("start", "sum", "spring", evidence=plan_to_dict(plan)))
        until(
            lambda: (
                asked(url, tensor([[1.0]], parameters={"unit": units[0]}))[2]["parameters"]["variant"] == "challenger"
            )
        )
        for i in range(8):  # both versions fail on it, so it goes all the way down the list
            assert told(url, tensor([[3e38]], id=f"bad{i}", parameters={"unit": units[i]})) == (200, [2.5], "default")
        status, _, said = asked(url, tensor([[5.0]], id="well", parameters={"unit": units[9]}))
    rows = {(row["request_id"], row["variant"]): row for row in recorded(its)}
    assert rows["bad0", "challenger"]["status"] == "error" and rows["bad0", "challenger"]["trial"] == "spring"
    assert rows["bad0", "champion"]["status"] == "error" and rows["bad0", "fallback"]["status"] == "fallback"
    assert status == 200 and said["parameters"]["fallback"] in ("champion", "default")
    with closing(Journal.open(its)) as journal:
        seen = evidence(journal.scored("rating", trial="spring"), plan, 0)
    assert seen.of("error_rate", "challenger").mean > 0.5  # the trial knows, although no client has seen an error
    assert not any(row["variant"] == "fallback" and row["trial"] for row in rows.values())


def test_a_version_that_cannot_state_what_it_would_is_refused_when_it_is_loaded(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": 2.5}}, threefold)
    facts = tmp_path / "models/sum/1.0.0/bundle.json"
    spoilt = json.loads(facts.read_text()) | {"card": {"default": {"y": "high"}}}
    with pytest.raises(ValueError, match="default of y must be one FP32 value or of shape"):
        threefold(tmp_path / "other", "high")
    facts.write_text(json.dumps(spoilt))
    with pytest.raises(bundles.CannotDo, match="default of y must be"):
        bundles.read(facts.parent)
