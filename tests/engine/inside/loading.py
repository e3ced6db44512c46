"""vLLM's loaders find the processor, and what the engine's configuration allows is read right."""

from __future__ import annotations

from types import SimpleNamespace

from runners import Second
from setting import CONFIG, CPU, VOCABULARY, config, params, refusal, ticket
from suffice.server.engine.plugin import processor as plugin
from suffice.server.engine.plugin.processor import SufficeProcessor
from suffice.server.engine.plugin.setting import EngineSetting
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample import logits_processor as first_loader
from vllm.v1.worker.gpu.sample.logits_processor import loader as second_loader


def check_the_first_runner_loads_it():
    loaded = first_loader._load_custom_logitsprocs(None)
    assert SufficeProcessor in loaded, loaded
    built = first_loader.build_logitsprocs(CONFIG, CPU, False, False)
    assert any(isinstance(one, SufficeProcessor) for one in built.non_argmax_invariant)


def check_the_second_runner_loads_it():
    assert SufficeProcessor in second_loader._load_v2_logitsprocs(None)
    runner = Second()
    states = SimpleNamespace(**{name: getattr(runner.state, name) for name in runner.state.__dataclass_fields__})
    built = second_loader.build_custom_logits_processors(CONFIG, states, is_pooling_model=False)
    assert [type(one) for one in built].count(SufficeProcessor) == 1


def check_both_take_it_by_name():
    name = "suffice.server.engine.plugin.processor:SufficeProcessor"
    assert first_loader._load_logitsprocs_by_fqcns([name]) == [SufficeProcessor]
    assert second_loader._load_v2_logitsprocs_by_fqcns([name]) == [SufficeProcessor]


def check_bad_arguments_are_refused_at_the_front_of_both_runners():
    second = second_loader.build_custom_logits_processors_params_validator(None)
    for extra in ({"suffice_slot": 1}, {"suffice_rules": "nothing"}, {"suffice_nonsense": 1}):
        for validate in (lambda p: first_loader.validate_logits_processors_parameters(None, p), second):
            assert "suffice" in refusal(VLLMValidationError, validate, params(extra))
    second(params())
    second(params({"other": 1}))
    second(params({"suffice_rules": "repetition", **ticket()}))


def check_a_slot_is_for_one_sample():
    assert "n must be 1" in refusal(ValueError, SufficeProcessor.validate_params, params(ticket(), n=2))
    SufficeProcessor.validate_params(params({"suffice_rules": "repetition"}, n=2))


def check_an_engine_that_cannot_refuses_who_asks_and_nobody_else():
    plugin.UNAVAILABLE.add("speculative_decoding")
    try:
        SufficeProcessor.validate_params(params())
        asks = params({"suffice_thinking_tokens": 1})
        assert "speculative_decoding" in refusal(ValueError, SufficeProcessor.validate_params, asks)
    finally:
        plugin.UNAVAILABLE.clear()


def check_the_configuration_is_read():
    setting = EngineSetting.of(CONFIG)
    assert (setting.runner, setting.obstacles, setting.signal_obstacles, setting.marks, setting.ranks) == (
        "v1", (), (), None, 1,
    )  # fmt: skip
    assert setting.vocabulary == VOCABULARY


def check_speculative_decoding_is_an_obstacle():
    speculative = config(speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2})
    assert EngineSetting.of(speculative).obstacles == ("speculative_decoding",)
    processor = SufficeProcessor(speculative, Second().state)
    assert processor.add_request(0, params({"suffice_thinking_tokens": 1})) is False


def check_the_first_runner_with_hidden_tokens_is_an_obstacle():
    CONFIG.scheduler_config.async_scheduling = True
    try:
        assert EngineSetting.of(CONFIG).obstacles == ("asynchronous_scheduling",)
    finally:
        CONFIG.scheduler_config.async_scheduling = False


def check_the_marks_are_vllms_own():
    reasoning = SimpleNamespace(
        reasoning_start_token_ids=[1], reasoning_end_token_ids=[7, 2], natural_reasoning_end_token_ids=[2]
    )
    given = SimpleNamespace(
        model_config=CONFIG.model_config, parallel_config=CONFIG.parallel_config, speculative_config=None,
        scheduler_config=CONFIG.scheduler_config, instance_id="x_dp1", reasoning_config=reasoning,
    )  # fmt: skip
    marks = EngineSetting.of(given).marks
    assert (marks.start, marks.end, marks.force) == ((1,), (2,), (7, 2))
