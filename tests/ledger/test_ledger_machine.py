"""The ledger against a model of it: any order of reservations, settlements, crashes and jumps of the clock."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from suffice.server.ledger.amounts import Account, Amount, Denied, Granted, Limit, Resource, Window
from suffice.server.ledger.ledger import Ledger

CHECKPOINT = 50
TEAM = Account(
    id="team:t",
    limits=(
        Limit(resource=Resource.TOKENS, limit=900, window=Window.DAY),
        Limit(resource=Resource.REQUESTS, limit=40, window=Window.LIFE),
    ),
)
KEYS = (
    Account(
        id="key:a",
        limits=(
            Limit(resource=Resource.TOKENS, limit=500, window=Window.HOUR),
            Limit(resource=Resource.TOKENS, limit=1500, window=Window.LIFE),
        ),
    ),
    Account(id="key:b", limits=(Limit(resource=Resource.KV_BLOCK_MS, limit=300, window=Window.MINUTE),)),
)
ACCOUNTS = {account.id: account for account in (TEAM, *KEYS)}


class Held:
    """The model of one reservation."""

    def __init__(self, accounts, amount, at):
        self.accounts, self.amount, self.at = accounts, amount, at
        self.reported = 0


class LedgerMachine(RuleBasedStateMachine):
    """Every limit holds in every window, and every reservation ends once."""

    reservations = Bundle("reservations")

    @initialize()
    def begin(self):
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        self.now = 1_763_990_000.0
        self.number = 0
        self.open: dict[str, Held] = {}
        self.charged = dict.fromkeys(((name, resource) for name in ACCOUNTS for resource in Resource), 0)
        self.ledger = self.run(self.opened())

    def run(self, work):
        return self.loop.run_until_complete(work)

    async def opened(self):
        return await Ledger.open(
            self.directory / "ledger.sqlite",
            checkpoint_tokens=CHECKPOINT,
            clock=lambda: self.now,
            synchronous="normal",
        )

    def charge(self, held, used):
        for account in held.accounts:
            for resource in Resource:
                self.charged[account.id, resource] += used.get(resource)

    @rule(
        target=reservations,
        key=st.sampled_from(KEYS),
        tokens=st.integers(0, 700),
        blocks=st.integers(0, 200),
    )
    def reserve(self, key, tokens, blocks):
        self.number += 1
        name = f"r{self.number}"
        amount = Amount(tokens=tokens, requests=1, kv_block_ms=blocks)
        before = [self.run(self.ledger.usage(account)) for account in (key.id, TEAM.id)]
        answer = self.run(self.ledger.reserve(request_id=name, accounts=(key, TEAM), amount=amount))
        fits = all(
            usage.spent[limit.resource, limit.window] + usage.reserved[limit.resource] + amount.get(limit.resource)
            <= limit.limit
            for account, usage in zip((key, TEAM), before, strict=True)
            for limit in account.limits
        )
        assert isinstance(answer, Granted if fits else Denied)
        if fits:
            self.open[name] = Held((key, TEAM), amount, self.now)
        else:
            assert [self.run(self.ledger.usage(account)) for account in (key.id, TEAM.id)] == before
        return name

    @rule(name=reservations, tokens=st.integers(0, 800))
    def amend(self, name, tokens):
        self.ledger.amend(name, tokens)
        held = self.open.get(name)
        if held is not None and held.reported <= tokens < held.amount.tokens:
            held.amount = Amount(tokens=tokens, requests=1, kv_block_ms=held.amount.kv_block_ms)
        elif held is not None and tokens < held.amount.tokens:
            # A gateway never amends below what it reported; undo it in the model by ending the reservation.
            self.run(self.ledger.settle(name, Amount(), "ended"))
            del self.open[name]

    @rule(name=reservations, more=st.integers(0, 120))
    def checkpoint(self, name, more):
        held = self.open.get(name)
        if held is None:
            self.ledger.checkpoint(name, more)
        else:
            held.reported = min(held.reported + more, held.amount.tokens)
            self.ledger.checkpoint(name, held.reported)

    @rule(name=consumes(reservations), share=st.floats(0, 1), twice=st.booleans())
    def settle(self, name, share, twice):
        held = self.open.pop(name, None)
        amount = Amount() if held is None else held.amount
        used = Amount(tokens=int(amount.tokens * share), requests=1, kv_block_ms=int(amount.kv_block_ms * share))
        assert self.run(self.ledger.settle(name, used, "completed")) is (held is not None)
        if held is not None:
            self.charge(held, used)
        if twice:
            assert not self.run(self.ledger.settle(name, used, "completed"))

    @rule()
    def crash(self):
        before = {account: self.run(self.ledger.usage(account)) for account in ACCOUNTS}
        self.run(self.ledger.close())
        self.ledger = self.run(self.opened())
        assert self.ledger.stats.recovered == len(self.open)
        for held in self.open.values():
            self.charge(held, Amount(requests=1))
        for account, usage in before.items():
            mine = [held for held in self.open.values() if account in {one.id for one in held.accounts}]
            least = sum(min(held.reported, held.amount.tokens) for held in mine)
            most = sum(min(held.reported + CHECKPOINT, held.amount.tokens) for held in mine)
            life = Resource.TOKENS, Window.LIFE
            charged = self.run(self.ledger.usage(account)).spent[life] - usage.spent[life]
            assert least <= charged <= most
            self.charged[account, Resource.TOKENS] += charged
        self.open.clear()

    @rule(seconds=st.sampled_from([-90_000, -3600, -61, -1, 1, 30, 61, 3600, 90_000]))
    def clock(self, seconds):
        self.now += seconds

    @invariant()
    def every_limit_holds_in_every_window(self):
        self.run(self.ledger.usage("nobody"))  # the queue is written once this is answered
        spent = self.ledger._db.execute("SELECT account, resource, window, start, amount FROM spent").fetchall()
        sums = {
            (account, Resource(resource), Window(window), start): n for account, resource, window, start, n in spent
        }
        for held in self.open.values():
            for account in held.accounts:
                for limit in account.limits:
                    place = (account.id, limit.resource, limit.window, limit.window.start(held.at))
                    sums[place] = sums.get(place, 0) + held.amount.get(limit.resource)
        for (account, resource, window, _), amount in sums.items():
            for limit in ACCOUNTS[account].limits:
                if (limit.resource, limit.window) == (resource, window):
                    assert amount <= limit.limit

    @invariant()
    def what_is_held_is_the_sum_of_what_is_open(self):
        reserved = {(a, r): n for a, r, n in self.ledger._db.execute("SELECT account, resource, amount FROM reserved")}
        query = "SELECT account, resource, amount FROM spent WHERE window = 'life'"
        spent = {(account, resource): amount for account, resource, amount in self.ledger._db.execute(query)}
        for account in ACCOUNTS:
            mine = [held for held in self.open.values() if account in {one.id for one in held.accounts}]
            for resource in Resource:
                assert reserved.get((account, resource), 0) == sum(held.amount.get(resource) for held in mine)
                assert spent.get((account, resource), 0) == self.charged[account, resource]
        assert self.ledger.stats.open == len(self.open)

    def teardown(self):
        if hasattr(self, "ledger"):
            self.run(self.ledger.close())
            self.loop.close()
            shutil.rmtree(self.directory)


LedgerMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
test_the_ledger_holds_whatever_happens = LedgerMachine.TestCase
