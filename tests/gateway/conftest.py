"""Gateways before fake upstreams, each kind started once and cleaned between tests."""

from __future__ import annotations

import contextlib
import copy

import pytest
from fake_vllm import FakeVLLM, default_model
from gateway.rig import CRASHES, Gateway


@pytest.fixture(scope="session")
def gateways(tmp_path_factory):
    """Gateways by their upstream's settings and their own file; each pair is started once."""
    with contextlib.ExitStack() as stack:
        started = {}

        def get(config=None, **settings):
            name = repr((config, sorted(settings.items())))
            if name not in started:
                fake = stack.enter_context(FakeVLLM(**settings))
                held = Gateway(fake, tmp_path_factory.mktemp("gateway"), config or {})
                stack.callback(held.stop)
                started[name] = held.start()
            return started[name]

        yield get


@pytest.fixture(autouse=True)
def no_crashes():
    """No request may end in an exception that nobody expected."""
    CRASHES.take()
    yield
    assert CRASHES.take() == []


@pytest.fixture
def make(gateways):
    """A gateway of the kind asked for, with nothing left from other tests."""
    used = []

    def get(config=None, **settings):
        held = gateways(config, **settings)
        held.fake.wait_idle()
        held.fake.forget()
        used.append((held.fake, copy.copy(held.fake.settings)))
        return held

    yield get
    for fake, settings in used:
        fake.wait_idle()
        fake.forget()
        fake.says(default_model)
        for name in settings.__slots__:
            setattr(fake.settings, name, getattr(settings, name))


@pytest.fixture
def gate(make):
    """The common kind: a thinking model, a reasoning parser, a thinking budget in the engine."""
    return make()
