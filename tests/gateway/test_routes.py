"""Which routes there are, what the small ones say, and that everything else never reaches upstream."""

import httpx2
import pytest
from suffice.server.ledger.amounts import Resource

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
POSTS = (*GENERATING, "/v1/embeddings", "/v1/messages/count_tokens")
GETS = ("/health", "/ready", "/version", "/v1/models", "/metrics")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/tokenize",
        "/detokenize",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/inference/v1/generate",
        "/v1/responses/resp_1",
        "/v1/chat/completions/x",
        "/v1//chat/completions",
        "/V1/models",
        "/v1/audio/speech",
        "/pooling",
        "/score",
        "/sleep",
        "/reset_prefix_cache",
        "/v1/models/../../tokenize",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_route_is_a_404_that_upstream_never_sees(gate, method, path):
    answer = gate.client.request(method, path, json={"model": "fake"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "route_not_found", None)
    assert gate.fake.requests == []


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_posts_take_no_other_method(gate, method, path):
    answer = gate.client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", GETS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_gets_take_no_other_method(gate, method, path):
    answer = gate.client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("/health", {"status": "ok"}, id="health"),
        pytest.param("/ready", {"status": "ready"}, id="ready"),
    ],
)
def test_probes_need_no_key(gate, path, says):
    answer = httpx2.get(gate.url + path, trust_env=False)
    assert (answer.status_code, answer.json()) == (200, says)


def test_the_version_names_the_rules_in_force(gate):
    told = gate.client.get("/version").json()
    assert told["policy_version"] == gate.service.version
    assert told["policy_version"].startswith("sha256:")
    assert told["version"][0].isdigit()


def test_models_come_without_upstreams_paths(make):
    gate = make(models=("fake", "adapter"))
    answer = gate.client.get("/v1/models")
    cards = answer.json()["data"]
    assert [(card["id"], card["parent"], card["max_model_len"]) for card in cards] == [
        ("fake", None, 4096),
        ("adapter", "fake", 4096),
    ]
    assert {card["owned_by"] for card in cards} == {"suffice"}
    assert "/models/" not in answer.text


def test_models_need_a_key(gate):
    answer = httpx2.get(gate.url + "/v1/models", trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_metrics_count_requests_by_route_and_status(gate):
    labels = {"route": "chat", "model": "fake", "code": "200"}
    before = gate.metric("suffice_requests_total", **labels)
    gate.post("/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "hi"}]})
    assert gate.metric("suffice_requests_total", **labels) == before + 1
    text = gate.client.get("/metrics").text
    assert f'suffice_requests_total{{code="200",model="fake",route="chat"}} {before + 1}' in text
    assert "suffice_budget_overshoot_tokens_total 0.0" in text


@pytest.mark.parametrize(
    ("asked", "tokens", "vectors"),
    [
        pytest.param("one two three", 3, 1, id="text"),
        pytest.param(["one two", "three"], 3, 2, id="texts"),
        pytest.param([7, 8, 9, 10], 4, 1, id="token-ids"),
        pytest.param([[7, 8], [9]], 3, 2, id="lists-of-ids"),
    ],
)
def test_embeddings_charge_their_prompt(gate, asked, tokens, vectors):
    id_, key = gate.key()
    answer = gate.post("/v1/embeddings", {"model": "fake", "input": asked, "user": "someone"}, key=key)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == vectors
    assert answer.json()["usage"]["prompt_tokens"] == tokens
    assert gate.usage(f"key:{id_}") == (tokens, 0)
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (1, 0)


def test_base64_embeddings_pass_through(gate):
    answer = gate.post("/v1/embeddings", {"model": "fake", "input": "a", "encoding_format": "base64"}).json()
    assert isinstance(answer["data"][0]["embedding"], str)


def test_a_model_that_does_not_embed_says_so_and_costs_nothing(make):
    gate = make(embeddings=False)
    id_, key = gate.key()
    answer = gate.post("/v1/embeddings", {"model": "fake", "input": "a"}, key=key)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "upstream does not offer this")
    assert gate.usage(f"key:{id_}") == (0, 0)


def test_embeddings_are_refused_when_the_budget_is_spent(gate):
    id_, key = gate.key(limits=("tokens=10/day",))
    answer = gate.post("/v1/embeddings", {"model": "fake", "input": "a b c"}, key=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert gate.usage(f"key:{id_}") == (0, 0)


def test_counting_tokens_costs_nothing(gate):
    id_, key = gate.key(limits=("tokens=0/day",))
    body = {"model": "fake@frugal", "messages": [{"role": "user", "content": "one two"}], "system": "be brief"}
    answer = gate.post("/v1/messages/count_tokens", body, key=key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["input_tokens"] > 4
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (0, 0)


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_may_come_in_either_header(gate, header):
    value = f"Bearer {gate.secret}" if header == "authorization" else gate.secret
    answer = httpx2.get(gate.url + "/v1/models", headers={header: value}, trust_env=False)
    assert answer.status_code == 200
