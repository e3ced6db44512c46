"""Files of recorded samples: read strictly, replayed question by question, calibrated or refused."""

import gzip
import hashlib
import json

import pytest
import yaml
from suffice.policies.errors import InvalidBudget
from suffice.policies.replay_traces import RecordedProbe
from suffice.server.cli import app
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.trace_files import BadTraces, read_traces, same_form
from suffice.server.replay.traces import NotRecorded, Replayer, choose, measures
from typer.testing import CliRunner

SCHEDULE = {"probe_first": 4, "probe_growth": 1.5, "probe_tokens": 2}


def sample(length, found, *, answer="7", early="1", sure=0.99):
    """A sample whose probes give ``early`` before ``found`` tokens and its answer from there on."""
    probes = [
        {"at": at, "answer": answer if at >= found else early, "confidence": sure if at >= found else 0.3, "tokens": 2}
        for at in range(4, length, 2)
    ]
    return {"answer": answer, "tokens": [f" t{n}" for n in range(length)], "probes": probes}


def question(name, *samples, gold="7"):
    return {"id": name, "gold": gold, "samples": list(samples)}


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="traces.jsonl", zipped=False):
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if zipped else data)
        return path

    return write


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_a_file_is_read_as_it_was_recorded(write, zipped):
    recorded = {
        "answer": 7.0,
        "finish": "length",
        "tokens": ["a", "b", "</think>", "a"],
        "logprobs": [-1, -2, -3, -4],
        "top5": [[-1, -3], [-2, -2], [-3], [-4]],
        "entropies": [0.1, 0.2, 0.3, 0.4],
        "probes": [{"at": 2, "answer": None, "tokens": ["x", "y"]}, {"at": 1, "answer": "1,000", "confidence": 1}],
    }
    path = write(question("one", recorded, gold="7"), zipped=zipped)
    traces = read_traces(path)
    (trace,) = traces.questions[0].traces
    assert (traces.samples, traces.longest_thought, traces.questions[0].gold) == (1, 2, "7")
    assert traces.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (trace.thought, trace.answer, trace.finished) == (2, "7", False)
    assert (trace.token_ids, trace.logprobs, trace.confidences) == ((0, 1, 2, 0), (-1, -2, -3, -4), (2, 2, 3, 4))
    assert trace.entropies == (0.1, 0.2, 0.3, 0.4)
    assert trace.probes == (
        RecordedProbe(at=1, answer="1000", confidence=1.0),
        RecordedProbe(at=2, answer=None, tokens=2),
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        pytest.param(b"", "no questions", id="empty"),
        pytest.param(b"{", ":1: ", id="no-json"),
        pytest.param(b'{"id": 1}\n', ":1: no 'samples'", id="no-samples"),
        pytest.param(b'\n{"samples": [{"answer": 1}]}', ":2: no 'tokens'", id="no-tokens"),
        pytest.param(b'{"samples": [{"tokens": ["a"]}]}', "no 'answer'", id="no-answer"),
        pytest.param(b'{"samples": [{"answer": 1, "tokens": ["a"], "logprobs": [1, 2]}]}', "2 entries", id="lengths"),
        pytest.param(
            b'{"samples": [{"answer": 1, "tokens": ["a"], "probes": [{"answer": 1}]}]}', "no 'at'", id="probe"
        ),
        pytest.param(b"[1]", ":1: ", id="no-object"),
        pytest.param(b"\x1f\x8bbroken", "traces", id="broken-gzip"),
    ],
)
def test_what_is_no_file_of_traces_is_refused_by_line(tmp_path, content, part):
    path = tmp_path / "traces.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadTraces, match=part):
        read_traces(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [("51", 51), ("51.0", 51), ("1,234", "1234"), (" yes ", "yes"), ("1e400000", "1e400000"), ("NaN", "NaN")],
)
def test_equal_answers_have_equal_forms(one, other):
    assert same_form(one) == same_form(other)


@pytest.mark.parametrize(("one", "other"), [("5", "6"), ("yes", "Yes"), ("5", None)])
def test_other_answers_have_other_forms(one, other):
    assert same_form(one) != same_form(other)


def test_the_measures_are_those_of_the_outcomes(write):
    lines = [
        question("early", sample(40, 4), sample(40, 4)),
        question("late", sample(40, 30)),
        question("unknown", sample(40, 4, answer="9"), gold=None),
    ]
    replayer = Replayer(read_traces(write(*lines)))
    played = list(replayer.play("confidence", SCHEDULE | {"threshold": 0.9}))
    assert [[one.position for one in each.outcomes] for each in played] == [[4, 4], [32], [4]]
    result = measures(played, Bootstrap(3, 0))
    # Places 4, 6, 9 (recorded at 10), 14, 21 (22), 32; two tokens a probe.
    spent = 3 * (4 + 2) + 32 + 6 * 2
    assert result["tokens_saved"].mean == pytest.approx(1 - spent / 160)
    assert result["samples"].mean == pytest.approx(4 / 3)
    assert (result["agreement"].mean, result["accuracy"].mean, result["certified"]) == (1.0, 1.0, None)


def test_a_question_is_judged_by_the_lengths_of_others(write):
    def of(length):
        return {"answer": "7", "tokens": ["t"] * length}

    lines = [question(str(n), of(100 if n % 2 else 10)) for n in range(60)]
    played = list(Replayer(read_traces(write(*lines))).play("length", {"alpha": 0.1}))
    assert {each.outcomes[0].position for each in played[1::2]} == {11}
    assert {each.outcomes[0].rule for each in played[::2]} == {None}


def test_what_a_rule_lives_on_must_be_recorded(write):
    replayer = Replayer(read_traces(write(question("one", {"answer": "7", "tokens": ["t"]}))))
    with pytest.raises(NotRecorded, match="no probes, which combined needs"):
        replayer.play("combined", {})
    with pytest.raises(NotRecorded, match="pause_at_close"):
        replayer.play("extend", {})


def test_parameters_go_to_the_rules_that_take_them():
    chosen = choose(["confidence", "static_cap"], ["threshold=0.9", "static_cap.cap=7"])
    assert chosen == {"confidence": {"threshold": 0.9}, "static_cap": {"cap": 7}}


@pytest.mark.parametrize("parameter", ["cap", "cup=3", "convergence.window=3", "cap=x"])
def test_parameters_that_no_rule_takes_are_refused(parameter):
    with pytest.raises(InvalidBudget):
        choose(["static_cap"], [parameter])


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def test_replay_prints_the_keys_of_votes(write):
    path = write(question("one", sample(40, 4)), question("two", sample(40, 20)))
    given = [f"--param={name}={value}" for name, value in SCHEDULE.items()]
    shown = json.loads(run("replay", "--traces", path, "--rule", "confidence", *given, "--json").stdout)
    assert set(shown) == {"samples", "tokens_saved", "agreement", "accuracy", "certified", "runs"}
    assert shown["runs"] == {"questions": 2, "samples": 2}
    assert shown["accuracy"]["mean"] == 1.0
    assert shown["certified"] is None
    both = json.loads(run("replay", "--traces", path, "--rule=static_cap", "--rule=repetition", "--json").stdout)
    assert both["repetition"]["tokens_saved"]["mean"] == 0.0
    assert "static_cap" in run("replay", "--traces", path, "--rule", "static_cap").stdout


def test_a_price_ends_thoughts_earlier_and_none_at_all_changes_nothing(write):
    path = write(question("one", sample(40, 20)), question("two", sample(40, 30)))
    given = [f"--param={name}={value}" for name, value in SCHEDULE.items()]
    unpriced, free, dear = (
        json.loads(run("replay", "--traces", path, "--rule", "confidence", *given, *more, "--json").stdout)
        for more in ((), ("--price", 0), ("--price", 50))
    )
    assert free == unpriced
    assert dear["tokens_saved"]["mean"] > unpriced["tokens_saved"]["mean"]
    assert dear["agreement"]["mean"] < unpriced["agreement"]["mean"]


@pytest.mark.parametrize(
    "arguments",
    [["--rule", "extend"], ["--rule", "nobody"], ["--param", "no=1"], ["--votes", "x"], ["--price", "no"]],
    ids=["not-recorded", "no-rule", "no-parameter", "both-kinds", "no-price"],
)
def test_replay_refuses_what_it_cannot_do(write, arguments):
    run("replay", "--traces", write(question("one", sample(9, 4))), *arguments, code=2)


def population(*, misled):
    """Two hundred questions, a share of which is sure of a wrong answer early on."""
    wrong = {n: sample(40, 30, early="1") for n in range(200) if n % 100 < misled}
    for one in wrong.values():
        for probe in one["probes"]:
            probe["confidence"] = 0.97
    return [question(str(n), wrong.get(n) or sample(40, 4 + n % 12)) for n in range(200)]


def calibrate(*arguments, code=0):
    given = [f"--param={name}={value}" for name, value in SCHEDULE.items()]
    return run("calibrate", "--rule=confidence", "--risk=0.05", *given, *arguments, code=code)


def test_calibrate_writes_the_threshold_with_its_evidence(write, tmp_path):
    path = write(*population(misled=10))
    out = tmp_path / "policy.yaml"
    shown = json.loads(calibrate("--traces", path, "--out", out, "--date=2031-05-06", "--json").stdout)
    # Everything down to 0.97 leaves the misled alone; 0.97 itself ends them with a wrong answer.
    assert shown["threshold"] == 0.98
    (evidence,) = shown["evidence"]
    assert (evidence["questions"], evidence["risk_estimate"]) == (200, 0.0)
    assert evidence["p_value"] == pytest.approx(0.95**200)
    assert [one["threshold"] for one in evidence["tested"]][-2:] == [0.98, 0.97]
    policy = yaml.safe_load(out.read_text())
    assert policy["early_exit"] == {"rule": "confidence", **SCHEDULE, "threshold": 0.98}
    assert policy["evidence"]["traces_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert policy["evidence"]["date"] == "2031-05-06"
    assert policy["evidence"]["thresholds"][0]["p_value"] == evidence["p_value"]
    assert policy["evidence"]["tokens_saved"] == pytest.approx(0.4785)
    assert "threshold=0.98" in calibrate("--traces", path).stdout


def test_two_thresholds_are_calibrated_together(write):
    shown = json.loads(calibrate("--traces", write(*population(misled=0)), "--two-sided", "--json").stdout)
    upper, lower = shown["evidence"]
    assert (upper["parameter"], lower["parameter"]) == ("threshold", "hopeless")
    assert upper["risk"] == lower["risk"] == 0.025
    assert upper["delta"] == lower["delta"] == 0.025
    assert shown["parameters"]["hopeless"] == lower["threshold"]


def test_expected_risk_is_another_promise(write):
    shown = json.loads(calibrate("--traces", write(*population(misled=2)), "--method=crc", "--json").stdout)
    assert shown["delta"] is None
    assert shown["evidence"][0]["bound"] <= 0.05
    assert shown["threshold"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        pytest.param(["--risk=0.001"], "at least 2995 are needed", id="too-few-questions"),
        pytest.param(["--param=probe_first=99"], "ended none of the samples", id="never-acts"),
        pytest.param(["--param=probe_first=4"], "already the most conservative threshold", id="too-risky"),
        pytest.param(["--rule=engine_entropy"], "no entropies", id="not-recorded"),
    ],
)
def test_calibrate_refuses_with_its_own_code_and_the_reason(write, tmp_path, arguments, part):
    out = tmp_path / "policy.yaml"
    lines = population(misled=60)
    for probe in (probe for line in lines for one in line["samples"] for probe in one["probes"]):
        probe["confidence"] = 1.0
    result = run("calibrate", "--traces", write(*lines), "--out", out, "--rule=confidence", *arguments, code=3)
    assert part in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [["--rule=deadline"], ["--rule=static_cap", "--two-sided"], ["--risk=0"], ["--param=x"], ["--param=threshold=0.9"]],
    ids=["no-axis", "no-lower-threshold", "no-risk", "no-parameter", "the-axis-itself"],
)
def test_calibrate_refuses_what_makes_no_sense(write, arguments):
    path = write(question("one", sample(9, 4)))
    assert run("calibrate", "--traces", path, "--rule=confidence", *arguments, code=2).output
