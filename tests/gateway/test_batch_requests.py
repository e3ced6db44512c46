"""What a batch may look like: everything else is a 400 that names the place, and upstream never sees it."""

import pytest
from gateway.batches import BATCH, body, votes

QUESTION = {"messages": [{"role": "user", "content": "hi"}]}
VOTE = {"id": "a", "sample": 0, "answer": "7", "tokens": 10}


def resume(**vote):
    return {"votes": [VOTE | vote]}


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        pytest.param({"total_tokens": None}, "total_tokens", "required", id="no-total"),
        pytest.param({"total_tokens": 0}, "total_tokens", "from 1", id="total-0"),
        pytest.param({"total_tokens": 3}, "total_tokens", "too little", id="total-below-one-answer"),
        pytest.param({"sample_tokens": 2}, "sample_tokens", "too little", id="sample-below-one-answer"),
        pytest.param({"total_token": 5}, "total_token", "did you mean 'total_tokens'", id="misspelt"),
        pytest.param({"n": 2}, "n", "unknown parameter", id="n"),
        pytest.param({"cache_salt": "x"}, "cache_salt", "set by the gateway", id="salt"),
        pytest.param({"temperature": "warm"}, "temperature", "a number", id="temperature"),
        pytest.param({"max_tokens": -1}, "max_tokens", "from 1", id="shared-length"),
        pytest.param({"stream": "yes"}, "stream", "true or false", id="stream"),
        pytest.param({"concurrency": 0}, "concurrency", "from 1", id="concurrency"),
        pytest.param({"deadline_ms": 1.5}, "deadline_ms", "an integer", id="deadline"),
        pytest.param({"questions": []}, "questions", "non-empty", id="no-questions"),
        pytest.param({"questions": {}}, "questions", "array", id="questions-kind"),
        pytest.param({"questions": [QUESTION, 5]}, "questions.1", "an object", id="question-kind"),
        pytest.param({"questions": [{"id": "a"}]}, "questions.0.messages", "non-empty", id="no-messages"),
        pytest.param({"questions": [QUESTION | {"id": ""}]}, "questions.0.id", "1 to 64", id="id-empty"),
        pytest.param({"questions": [QUESTION | {"id": "x" * 65}]}, "questions.0.id", "1 to 64", id="id-long"),
        pytest.param({"questions": [QUESTION | {"id": 5}]}, "questions.0.id", "a text", id="id-kind"),
        pytest.param({"questions": [QUESTION | {"id": "a"}] * 2}, "questions.1.id", "another", id="id-twice"),
        pytest.param({"questions": [QUESTION, QUESTION | {"id": "0"}]}, "questions.1.id", "another", id="id-default"),
        pytest.param(
            {"questions": [QUESTION | {"mesages": []}]}, "questions.0.mesages", "did you mean 'messages'", id="own-key"
        ),
        pytest.param({"questions": [QUESTION | {"model": "x"}]}, "questions.0.model", "unknown", id="own-model"),
        pytest.param({"questions": [QUESTION | {"suffice": {}}]}, "questions.0.suffice", "beside them", id="own-field"),
        pytest.param({"questions": [QUESTION | {"top_p": []}]}, "questions.0.top_p", "a number", id="own-kind"),
        pytest.param(
            {"questions": [{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}]},
            "questions.0.messages",
            "image_url",
            id="image",
        ),
        pytest.param({"sampling": {"max": 0}}, "sampling.max", "greater than", id="max"),
        pytest.param({"sampling": {"mx": 4}}, "sampling.mx", "did you mean 'max'", id="sampling-key"),
        pytest.param({"sampling": 4}, "sampling", "an object", id="sampling-kind"),
        pytest.param({"sampling": {"least": 5, "max": 4}}, "sampling.least", "above", id="least"),
        pytest.param({"answer": {"kind": "numbr"}}, "answer.rule", "number", id="answer-kind"),
        pytest.param({"answer": {"kind": "number", "x": 1}}, "answer.x", "takes no", id="answer-key"),
        pytest.param({"answer": {"kind": "regex", "pattern": "("}}, "answer.pattern", "answer.pattern", id="pattern"),
        pytest.param({"answer": "number"}, "answer", "an object", id="answer-object"),
        pytest.param({"suffice": {"presset": "x"}}, "suffice.presset", "did you mean 'preset'", id="field"),
        pytest.param({"suffice": {"sampling": {}}}, "suffice.sampling", "beside its questions", id="field-sampling"),
        pytest.param({"suffice": {"answer": {}}}, "suffice.answer", "beside its questions", id="field-answer"),
        pytest.param({"suffice": {"context": {}}}, "suffice.context", "does not cut", id="field-context"),
        pytest.param(
            {"suffice": {"budget": {"total_tokens": 5}}}, "suffice.budget.total_tokens", "beside", id="field-total"
        ),
        pytest.param({"suffice": {"preset": "none"}}, "suffice.preset", "no preset", id="preset"),
        pytest.param({"suffice": {"early_exit": {"rule": "x"}}}, "suffice.early_exit.rule", "no rule", id="early-exit"),
        pytest.param({"resume": []}, "resume", "an object", id="resume-kind"),
        pytest.param({"resume": {}}, "resume.votes", "required", id="resume-empty"),
        pytest.param({"resume": {"vote": []}}, "resume.votes", "required", id="resume-key"),
        pytest.param(
            {"resume": {"votes": [], "lost": 1}}, "resume.lost", "did you mean 'lost_tokens'", id="resume-extra"
        ),
        pytest.param({"resume": {"votes": [], "lost_tokens": -1}}, "resume.lost_tokens", "greater", id="lost"),
        pytest.param({"resume": resume(id="b")}, "resume.votes.0.id", "no question", id="resume-id"),
        pytest.param({"resume": resume(sample=-1)}, "resume.votes.0.sample", "greater", id="resume-sample"),
        pytest.param({"resume": resume(sample=10**9)}, "resume.votes.0.sample", "less", id="resume-far"),
        pytest.param({"resume": resume(answer=7)}, "resume.votes.0.answer", "string", id="resume-answer"),
        pytest.param({"resume": resume(tokens="10")}, "resume.votes.0.tokens", "integer", id="resume-tokens"),
        pytest.param({"resume": resume(smaple=1)}, "resume.votes.0.smaple", "did you mean 'sample'", id="vote-key"),
        pytest.param({"resume": {"votes": [VOTE, VOTE]}}, "resume.votes.1", "same sample", id="resume-twice"),
        pytest.param({"resume": resume(tokens=100_001)}, "resume", "total_tokens is 100000", id="resume-beyond"),
        pytest.param(
            {"resume": resume(choice={"message": {"role": "user"}})},
            "resume.votes.0.choice.message.role",
            "assistant",
            id="resume-role",
        ),
        pytest.param(
            {"resume": resume(choice={"message": {"role": "assistant", "contnt": "x"}})},
            "resume.votes.0.choice.message.contnt",
            "did you mean 'content'",
            id="resume-message-key",
        ),
    ],
)
def test_mistakes_are_named_by_their_place(gate, change, param, says):
    answer = gate.post(BATCH, body("a") | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert gate.fake.requests == []
    gate.idle()
    assert not [one for one in gate.settled() if one.state == "open"]


def test_too_many_questions(make):
    gate = make({"server": {"batch_questions": 2}})
    answer = gate.post(BATCH, body("a", "b", "c"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "questions")


def test_a_state_may_not_have_taken_more_than_a_ceiling_allows(gate):
    _, key = gate.key(max_total_tokens=50)
    answer = gate.post(BATCH, body("a") | {"resume": resume(tokens=51)}, key=key)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "resume")


def test_a_judge_cannot_be_asked(make):
    gate = make({"policies": {"judges": {"equal": {"model": "fake"}}}})
    answer = gate.post(BATCH, body("a") | {"answer": {"kind": "judge", "judge": "equal"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "answer.kind")


@pytest.mark.parametrize(
    ("change", "key", "status", "code"),
    [
        pytest.param({}, "sk-suffice-nobody", 401, "invalid_api_key", id="key"),
        pytest.param({"model": "other"}, None, 404, "model_not_found", id="model"),
    ],
)
def test_who_may_ask_for_what(gate, change, key, status, code):
    answer = gate.post(BATCH, body("a") | change, key=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert gate.fake.requests == []


@pytest.mark.parametrize("way", ["field", "name", "header"])
def test_a_preset_is_chosen_as_anywhere(make, way):
    gate = make()
    votes(gate, {"a": ["7"]})
    request = body("a", sampling={"max": 1, "least": 1})
    headers = {"x_suffice_preset": "frugal"} if way == "header" else {}
    if way == "name":
        request["model"] = "fake@frugal"
    if way == "field":
        request["suffice"] = {"preset": "frugal"}
    del request["sample_tokens"]
    told = gate.post(BATCH, request, **headers).json()
    assert told["suffice"]["plan"]["preset"] == "frugal"
    assert told["suffice"]["plan"]["limits"]["sample_tokens"] == [1024, "preset"]
