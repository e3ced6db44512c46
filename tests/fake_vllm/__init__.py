"""A scriptable upstream that speaks vLLM 0.32's dialect over real HTTP, without a model.

::

    with FakeVLLM(Script.of(thought="one two", answer="42")) as fake:
        fake.fail("reset", after=3)
        ...  # requests to fake.url
        assert fake.aborted == 0

It is kept honest by a test that sends the same requests to it and to a real engine and compares what comes back.
"""

from fake_vllm.records import Received
from fake_vllm.script import Ask, Script, ToolCall, default_model
from fake_vllm.server import FakeVLLM
from fake_vllm.settings import Fault, Settings

__all__ = ["Ask", "FakeVLLM", "Fault", "Received", "Script", "Settings", "ToolCall", "default_model"]
