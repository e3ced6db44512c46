"""The suffice client: a typed budget, a stream, and the typed receipt at its end.

Needs OPENAI_BASE_URL and OPENAI_API_KEY (or SUFFICE_BASE_URL and SUFFICE_API_KEY), and ``pip install suffice``.
"""
# ruff: noqa: INP001, T201 - a script, and it prints

from suffice import Budget, BudgetExhaustedError, Client

client = Client()
model = client.models.list().data[0].id

try:
    with client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is 17 + 25?"}],
        stream=True,
        budget=Budget(total_tokens=256, thinking_tokens=128, deadline_ms=30_000),
    ) as stream:
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
except BudgetExhaustedError as error:
    raise SystemExit(f"This key's budget is spent: {error}") from None

receipt = stream.receipt
if receipt is None:
    raise SystemExit("\nNo receipt: is this address a suffice gateway?")
print(f"\n\n{receipt.spent.generated_tokens} tokens in {receipt.spent.wall_ms / 1000:.1f} s; limits in force:")
for name, limit in receipt.plan.limits.items():
    print(f"  {name} = {limit.value}, set by {limit.source}")
for stop in receipt.stops:
    print(f"  sample {stop.sample} was stopped by {stop.rule} at token {stop.at_token}")
