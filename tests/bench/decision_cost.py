# ruff: noqa: T201 - a command prints
"""What one decision costs: CPU time of admission and queue operations with 10, 1,000 and 10,000 in flight.

    python tests/bench/decision_cost.py [--sizes 10,1000,10000] [--repeats 5] [--json]

Microseconds of the thread's own CPU time an operation, the least of some repeats, so that other load on the machine
does not count. ``growth`` is how much dearer the largest size is than the smallest, beside how much larger it is.
"""

from __future__ import annotations

import argparse
import json
import random
import time

from suffice.policies.allocation.admission import Admission, Ask
from suffice.policies.allocation.batch import BatchAllocation, BatchRule
from suffice.policies.allocation.lengths import LengthBook
from suffice.policies.allocation.queue import FairQueue
from suffice.policies.allocation.tickets import QueueRule, ServiceClass, Ticket
from suffice.policies.memory.affinity import PrefixTable, Replica, choose, prefix_hashes

ROUNDS = 300
CLASSES = tuple(ServiceClass)


def admission(size, chance):
    """Decide, count in and end one request while ``size`` are in flight."""
    machine = Admission(usable_blocks=10**9, block_size=16)
    for name in range(size):
        machine.admit(ask(name, chance))
    asks = [ask(size + index, chance) for index in range(ROUNDS)]

    def run():
        for each in asks:
            machine.admit(each)
            machine.ended(each.id)

    return run


def refusal(size, chance):
    """Decide about one request that does not fit."""
    machine = Admission(usable_blocks=10**9, block_size=16)
    for name in range(size):
        machine.admit(ask(name, chance))
    machine.resize(machine.peak // 16 + 1)
    asks = [ask(size + index, chance) for index in range(ROUNDS)]
    return lambda: [machine.decide(each) for each in asks]


def progress(size, chance):
    """Correct what is known of one sample."""
    machine = Admission(usable_blocks=10**9, block_size=16)
    for name in range(size):
        machine.admit(ask(name, chance))
    names = [chance.randrange(size) for _ in range(ROUNDS)]
    return lambda: [machine.progress(name, 0, 10, 500) for name in names]


def ask(name, chance):
    limit = chance.randint(100, 8000)
    return Ask(id=name, prompt_tokens=chance.randint(10, 4000), limit=limit, remaining=chance.randint(1, limit))


def queue(size, chance):
    """Offer one request and take the next while ``size`` wait, of a tenth as many tenants."""
    machine = FairQueue(QueueRule(most=10**6, most_per_tenant=10**6), rate=10_000.0)
    for name in range(size):
        machine.offer(ticket(name, size, chance), 0.0)
    tickets = [ticket(size + index, size, chance) for index in range(ROUNDS)]

    def run():
        for each in tickets:
            machine.cancel(each.id)
            machine.offer(each, 0.0)
            machine.take()

    return run


def ticket(name, size, chance):
    return Ticket(
        id=name,
        tenant=f"t{chance.randrange(max(size // 10, 1))}",
        cost=chance.uniform(1, 500),
        service=chance.choice(CLASSES),
        deadline=chance.choice([None, 1e9 + chance.random()]),
    )


def lengths(size, chance):
    """Learn from one answer and tell what remains of another, with ``size`` answers seen."""
    book = LengthBook()
    for _ in range(size):
        book.observe(key="k", route="/r", model="m", tokens=int(chance.lognormvariate(6, 1)) + 1)

    def run():
        for generated in range(ROUNDS):
            book.observe(key="k", route="/r", model="m", tokens=generated + 1)
            book.remaining(key="k", route="/r", model="m", limit=8000, generated=generated)

    return run


def affinity(size, chance):
    """Choose among 16 replicas for a prompt of 32 KB, with ``size`` prompts in the table."""
    table = PrefixTable()
    for name in range(size):
        table.record(prefix_hashes([f"{name}" * 2000]), f"r{name % 16}")
    replicas = [
        Replica(name=f"r{index}", usable_blocks=10**4, projected_blocks=chance.randrange(9000)) for index in range(16)
    ]
    prompt = prefix_hashes(["x" * 32768])

    def run():
        for _ in range(ROUNDS):
            choose(replicas, prompt, table)
            table.record(prompt, "r1")

    return run


def batch(size, chance):
    """Draw one sample and take in its answer, with ``size`` questions."""
    machine = BatchAllocation(BatchRule(most=10**6), total_tokens=None)
    for name in range(size):
        machine.add(str(name))

    def run():
        for _ in range(ROUNDS):
            for draw in machine.next():
                machine.observe(draw.question, draw.sample, chance.randrange(2), 10)

    return run


OPERATIONS = (admission, refusal, progress, queue, lengths, affinity, batch)


def cost(operation, size, repeats):
    run = operation(size, random.Random(size))
    least = float("inf")
    for _ in range(repeats):
        began = time.thread_time()
        run()
        least = min(least, time.thread_time() - began)
    return least / ROUNDS * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="10,1000,10000")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [int(text) for text in options.sizes.split(",")]
    results = []
    for operation in OPERATIONS:
        microseconds = {size: cost(operation, size, options.repeats) for size in sizes}
        results.append(
            {
                "operation": operation.__name__,
                "what": operation.__doc__,
                "microseconds": microseconds,
                "growth": microseconds[max(sizes)] / microseconds[min(sizes)],
                "sizes_growth": max(sizes) / min(sizes),
            }
        )
    if options.json:
        print(json.dumps(results))
        return
    for told in results:
        costs = "  ".join(f"{size:>6,}: {cost:7.1f} us" for size, cost in told["microseconds"].items())
        print(f"{told['operation']:10} {costs}   x {told['growth']:.1f}   {told['what']}")


if __name__ == "__main__":
    main()
