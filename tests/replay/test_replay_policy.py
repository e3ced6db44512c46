"""``suffice replay --log --policy``: another file on recorded requests, as far as the record can tell."""

import json

import pytest
import yaml
from fake_vllm import FakeVLLM, Script
from gateway.rig import Gateway, wait
from suffice.server.cli import app
from typer.testing import CliRunner

CHAT = "/v1/chat/completions"
EXIT = {"rule": "convergence", "window": 5, "probe_first": 8, "probe_growth": 1.5, "probe_tokens": 4}
RAN = {
    "policies": {"early_exit": EXIT, "answer": {"kind": "number"}},
    "presets": {
        "balanced": {"budget": {"sample_tokens": 600}},
        "voting": {
            "budget": {"sample_tokens": 300},
            "early_exit": {"rule": "none"},
            "sampling": {"rule": "all", "max": 6, "wave": 2},
        },
        "plain": {"budget": {"sample_tokens": 300}, "early_exit": {"rule": "none"}},
    },
}
THOUGHT, ANSWER = 100, 3


def changed(**parts):
    """The file that ran with parts of it changed; a path's steps are joined by two underscores."""
    config = json.loads(json.dumps(RAN))
    for path, value in parts.items():
        *way, last = path.split("__")
        place = config
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return config


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Event logs of a few requests by preset."""
    logs = {}
    for preset in ("balanced", "voting", "plain"):
        folder = tmp_path_factory.mktemp(preset)
        with FakeVLLM() as fake:
            fake.settings.token_s = 0.002
            gate = Gateway(fake, folder, RAN).start()
            try:
                for number in range(4):
                    fake.says(
                        Script(thought=(" hm",) * (THOUGHT + 10 * number), answer=(" it", " is", f" {40 + number}"))
                    )
                    suffice = {"preset": preset} if preset != "balanced" else {}
                    body = {"model": "fake", "messages": [{"role": "user", "content": "so"}], "suffice": suffice}
                    assert gate.post(CHAT, body).status_code == 200
                path = folder / "events.jsonl"
                wait(lambda path=path: path.read_text().count('"Settled"') == 4)
                logs[preset] = path
            finally:
                gate.stop()
    return logs


@pytest.fixture
def replayed(log, tmp_path):
    def run(preset, config, *options):
        policy = tmp_path / "policy.yaml"
        policy.write_text(yaml.safe_dump(config))
        result = CliRunner().invoke(app, ["replay", "--log", str(log[preset]), "--policy", str(policy), *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if "--json" in options else result.stdout

    return run


@pytest.mark.parametrize("preset", ["balanced", "voting", "plain"])
def test_the_same_file_changes_nothing(replayed, preset):
    shown = replayed(preset, RAN, "--json")
    assert (shown["requests"], shown["undecidable"], shown["answers_unknown"]) == (4, 0, 0)
    assert shown["tokens_saved"]["mean"] == 0
    assert shown["answers_changed"]["mean"] == 0
    assert shown["tokens"] == shown["ran"]["tokens"]
    assert shown["latency"] == shown["ran"]["latency"]
    assert shown["latency"]["mean"] > 0.1


def test_fewer_samples(replayed):
    shown = replayed(
        "voting", changed(presets__voting__sampling={"rule": "majority_lock", "max": 6, "wave": 2}), "--json"
    )
    assert shown["undecidable"] == 0
    # Three of six equal votes decide, since the first answer wins a tie; all samples of a request are equally long.
    assert shown["tokens_saved"]["mean"] == pytest.approx(0.5, abs=0.01)
    # What is drawn in two waves takes twice the time of what was drawn at once.
    assert 1.5 < shown["latency"]["mean"] / shown["ran"]["latency"]["mean"] < 2.5
    assert shown["answers_changed"] == {"mean": 0, "low": 0, "high": 0}


def test_fewer_samples_at_most(replayed):
    shown = replayed("voting", changed(policies__ceilings={"samples": 3}), "--json")
    assert shown["undecidable"] == 0
    assert shown["tokens_saved"]["mean"] == pytest.approx(0.5, abs=0.01)


def test_an_earlier_exit_at_a_probe_that_was_taken(replayed):
    shown = replayed("balanced", changed(policies__early_exit=EXIT | {"window": 2}), "--json")
    assert shown["undecidable"] == 0
    assert shown["tokens_saved"]["mean"] > 0.4
    assert shown["answers_changed"]["mean"] == 0
    assert shown["tokens_saved"]["low"] <= shown["tokens_saved"]["mean"] <= shown["tokens_saved"]["high"]


@pytest.mark.parametrize(
    ("preset", "config", "why"),
    [
        pytest.param("balanced", changed(policies__early_exit=EXIT | {"window": 50}), "gone on", id="thinks-longer"),
        pytest.param("balanced", changed(policies__early_exit=EXIT | {"probe_first": 20}), "probe", id="other-probes"),
        pytest.param("plain", changed(presets__plain={"early_exit": EXIT}), "probe", id="no-probes"),
        pytest.param(
            "voting", changed(presets__voting__sampling={"rule": "all", "max": 8}), "more samples", id="more-samples"
        ),
        pytest.param("plain", changed(policies__guards={"repetition": {}}), "no log holds", id="rules-that-see-text"),
        pytest.param("plain", changed(policies__guards={"length": {}}), "learned", id="rules-that-learned"),
        pytest.param("voting", changed(policies__answer={"kind": "exact"}), "another way", id="answers-read-otherwise"),
        pytest.param("plain", {"presets": {"balanced": {}}}, "refused", id="preset-is-gone"),
    ],
)
def test_what_the_record_cannot_tell_is_undecidable(replayed, preset, config, why):
    shown = replayed(preset, config, "--json")
    assert (shown["requests"], shown["undecidable"]) == (4, 4)
    assert shown["tokens"] is None
    assert all(why in reason for reason in shown["undecidable_because"])


@pytest.mark.parametrize("cap", [20, 50])
def test_a_lower_cap_tells_tokens_and_not_the_answer(replayed, cap):
    shown = replayed("plain", changed(policies__ceilings={"thinking_tokens": cap}), "--json")
    assert (shown["undecidable"], shown["answers_unknown"]) == (0, 4)
    assert shown["answers_changed"] is None
    assert cap + ANSWER <= shown["tokens"]["mean"] <= cap + ANSWER + 2
    assert shown["latency"]["mean"] < shown["ran"]["latency"]["mean"]


def test_a_higher_cap_that_was_never_reached_changes_nothing(replayed):
    shown = replayed(
        "plain", changed(presets__plain={"budget": {"sample_tokens": 900}, "early_exit": {"rule": "none"}}), "--json"
    )
    assert (shown["undecidable"], shown["tokens_saved"]["mean"], shown["answers_changed"]["mean"]) == (0, 0, 0)


def test_a_lower_limit_cuts_the_answer(replayed):
    config = changed(policies__ceilings={"sample_tokens": 40}, policies__answer_reserve=1)
    shown = replayed("plain", config, "--json")
    assert shown["undecidable"] == 0
    assert shown["tokens"]["mean"] <= 40


def test_the_table_says_the_same(replayed):
    config = changed(presets__voting__sampling={"rule": "majority_lock", "max": 6, "wave": 2})
    shown = replayed("voting", config, "--json")
    text = replayed("voting", config)
    assert "4 requests, 0 of them undecidable" in text
    assert f"{100 * shown['tokens_saved']['mean']:.2f}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--log", "there-is-none"], "--policy", id="no-policy"),
        pytest.param(["--policy", "x.yaml"], "--log", id="no-log"),
    ],
)
def test_mistakes(arguments, message):
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_a_log_that_is_no_log(tmp_path):
    path, policy = tmp_path / "events.jsonl", tmp_path / "policy.yaml"
    policy.write_text("version: 1\n")
    path.write_text('{"no": "id"}\n{"request_id": "a"}\n')
    result = CliRunner().invoke(app, ["replay", "--log", str(path), "--policy", str(policy)])
    assert result.exit_code == 2
    assert "events.jsonl:1" in result.output
