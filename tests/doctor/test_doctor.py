"""``suffice doctor`` against upstreams that can do more and less."""

import json
import socket

import pytest
import yaml
from fake_vllm import FakeVLLM
from suffice.server.cli import app
from suffice.server.doctor import examination, metrics_page, version
from suffice.server.ledger.ledger import Ledger
from typer.testing import CliRunner


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


@pytest.fixture
def examined(tmp_path):
    """Findings by check, and the exit code, of one run."""

    def run(url, *options, server=None, **section):
        file = tmp_path / "suffice.yaml"
        ports = {"port": free_port(), "metrics_port": free_port()} | (server or {})
        file.write_text(yaml.safe_dump({"server": ports, "upstreams": [{"url": url} | section]}))
        arguments = ["doctor", "--config", str(file), "--data-dir", str(tmp_path / "data"), *options]
        result = CliRunner().invoke(app, arguments)
        if "--json" not in options:
            return result.output, result.exit_code
        shown = json.loads(result.stdout)
        assert shown["exit_code"] == result.exit_code
        return {finding["check"]: finding for finding in shown["findings"]}, result.exit_code

    return run


def health(found):
    return {check: finding["health"] for check, finding in found.items()}


def test_every_check_reports_once_and_every_fault_has_a_remedy(examined):
    with FakeVLLM() as fake:
        found, code = examined(fake.url, "--json")
    names = {one.NAME for one in (*examination.UPSTREAM, *examination.HERE)} | {"reachable"}
    assert found.keys() == names
    assert "failure" not in health(found).values(), found
    for finding in found.values():
        assert bool(finding["remedy"]) is (finding["health"] != "ok"), finding
        assert "\n" not in finding["found"] + finding["remedy"]
    assert code == (1 if "warning" in health(found).values() else 0)


@pytest.mark.parametrize(
    ("settings", "check", "wanted", "remedy"),
    [
        pytest.param({}, "thinking budget", "ok", "", id="thinking-budget"),
        pytest.param({"reasoning_config": False}, "thinking budget", "warning", "--reasoning-config", id="no-budget"),
        pytest.param({}, "reasoning parser", "ok", "", id="reasoning-parser"),
        pytest.param({"reasoning_parser": False}, "reasoning parser", "warning", "--reasoning-parser", id="no-parser"),
        pytest.param({}, "streaming usage", "ok", "", id="streaming-usage"),
        pytest.param({"usage": "final"}, "streaming usage", "failure", "continuous_usage_stats", id="final-usage"),
        pytest.param({"usage": "off"}, "streaming usage", "failure", "continuous_usage_stats", id="no-usage"),
        pytest.param({}, "prompt details", "ok", "", id="prompt-details"),
        pytest.param(
            {"prompt_tokens_details": False}, "prompt details", "warning", "--enable-prompt", id="no-prompt-details"
        ),
        pytest.param({}, "request metrics", "ok", "", id="request-metrics"),
        pytest.param({"request_metrics": False}, "request metrics", "warning", "--enable-per", id="no-metrics"),
        pytest.param({}, "KV capacity", "ok", "", id="kv"),
        pytest.param({"kv_cache_tokens": 1024}, "KV capacity", "warning", "--max-model-len", id="small-kv"),
        pytest.param({"health_status": 503}, "reachable", "failure", "start vLLM", id="unwell"),
        pytest.param({"api_key": "secret-1"}, "models", "failure", "api_key", id="no-key"),
        pytest.param({}, "token ids", "ok", "", id="token-ids"),
        pytest.param({}, "chosen logprobs", "ok", "", id="chosen-logprobs"),
        pytest.param({}, "metrics page", "ok", "", id="metrics-page"),
        pytest.param({}, "speculation", "ok", "", id="speculation"),
        pytest.param({}, "clock", "ok", "", id="clock"),
    ],
)
def test_what_an_upstream_can_do(examined, settings, check, wanted, remedy):
    with FakeVLLM(**settings) as fake:
        found, code = examined(fake.url, "--json")
    assert found[check]["health"] == wanted, found[check]
    assert remedy in found[check]["remedy"]
    assert code >= {"ok": 0, "warning": 1, "failure": 2}[wanted]


def test_the_key_of_the_file_is_used(examined, monkeypatch):
    monkeypatch.setenv("DOCTOR_TEST_KEY", "secret-1")
    with FakeVLLM(api_key="secret-1") as fake:
        found, _ = examined(fake.url, "--json", api_key="env:DOCTOR_TEST_KEY")
    assert found["models"]["health"] == "ok"
    assert "secret-1" not in json.dumps(found)


def test_nobody_there(examined):
    found, code = examined(f"http://127.0.0.1:{free_port()}", "--json")
    assert code == 2
    assert health(found) == {"reachable": "failure", "data directory": "ok", "ledger": "ok", "port": "ok"}


def test_a_port_that_is_taken(examined):
    with FakeVLLM() as fake, socket.create_server(("127.0.0.1", 0)) as held:
        found, code = examined(fake.url, "--json", server={"port": held.getsockname()[1]})
    assert (found["port"]["health"], code) == ("failure", 2)


def test_a_data_directory_that_is_a_file(examined, tmp_path):
    (tmp_path / "data").write_text("in the way")
    with FakeVLLM() as fake:
        found, code = examined(fake.url, "--json")
    assert (found["data directory"]["health"], code) == ("failure", 2)


@pytest.mark.anyio
async def test_a_ledger_in_use(examined, tmp_path):
    (tmp_path / "data").mkdir()
    ledger = await Ledger.open(tmp_path / "data" / "ledger.sqlite")
    found, _ = examined("http://127.0.0.1:1", "--json")
    await ledger.close()
    assert found["ledger"]["health"] == "warning"
    assert "uses it" in found["ledger"]["found"]
    found, _ = examined("http://127.0.0.1:1", "--json")
    assert found["ledger"]["health"] == "ok"


def test_a_ledger_that_is_none(examined, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ledger.sqlite").write_bytes(b"no database" * 100)
    found, code = examined("http://127.0.0.1:1", "--json")
    assert (found["ledger"]["health"], code) == ("failure", 2)


def test_the_table_tells_finding_and_remedy(examined):
    with FakeVLLM(reasoning_config=False) as fake:
        output, code = examined(fake.url)
    assert code == 1
    assert "thinking budget" in output
    assert "--reasoning-config" in output


def test_mistakes(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "--upstream" in result.output


class Page:
    """A patient of which one page is known."""

    def __init__(self, **known):
        self.__dict__.update(known)


def test_old_names_are_told_apart_from_missing_ones():
    names = [name for name in metrics_page.NEEDED if name != "vllm:kv_cache_usage_perc"]
    page = "\n".join(f"{name}{{}} 1" for name in names)
    assert "missing" in metrics_page.check(Page(metrics=page)).found
    old = metrics_page.check(Page(metrics=page + "\nvllm:gpu_cache_usage_perc{} 0"))
    assert "old names" in old.found
    assert metrics_page.check(Page(metrics=None)).health == "warning"


@pytest.mark.parametrize(
    ("told", "wanted"), [("0.32.0", "ok"), ("0.33.1rc1", "ok"), ("0.9.2", "warning"), ("1.0", "ok"), (None, "warning")]
)
def test_versions(told, wanted):
    answer = Page(status=200, body={"version": told})
    assert version.check(Page(get=lambda _: answer)).health == wanted


@pytest.mark.live
def test_a_real_engine(live_engine, examined):
    found, code = examined(live_engine.url, "--json")
    assert code in (0, 1)
    assert "failure" not in health(found).values(), found
    for check in ("reachable", "version", "models", "streaming usage", "token ids", "chosen logprobs", "KV capacity"):
        assert found[check]["health"] == "ok", found[check]
