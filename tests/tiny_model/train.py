"""Train the tiny reasoning model from nothing, on sums that it makes itself.

Run in this folder:  python train.py --tokens 12000000 --seed 1 --bf16
"""

# ruff: noqa: T201 - it prints its losses
from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from corpus import pair
from tokenizer import MAX_LENGTH, VOCABULARY, build
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tokens", type=int, default=12_000_000, help="training tokens in all, padding left out")
parser.add_argument("--batch", type=int, default=2_048, help="tokens a step; sequences of like length share a step")
parser.add_argument("--longest", type=int, default=1_024, help="longer sequences are thrown away")
parser.add_argument("--short", type=int, default=160, help="longest sequence in the first quarter of the run")
parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate; 2 %% of warm-up, then a cosine to 0")
parser.add_argument("--width", type=int, default=128, help="hidden size; heads are 32 wide")
parser.add_argument("--layers", type=int, default=4, help="layers")
parser.add_argument("--seed", type=int, default=1, help="seeds the corpus and the weights")
parser.add_argument("--threads", type=int, default=2, help="CPU threads; figures vary in the last digits with it")
parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, where the CPU is faster with it")
parser.add_argument("--out", type=Path, default=HERE / "weights", help="folder to write")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(args.seed)
rng = random.Random(args.seed)

# The tokenizer learns its merges from the corpus that it will read.
sample = random.Random(f"tokenizer {args.seed}")
tokenizer = build("".join(pair(sample)) for _ in range(5_000))
end = tokenizer.eos_token_id
print(f"tokenizer: {len(tokenizer)} tokens")

# The model: a small Llama, in float32 while it learns.
config = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=args.width,
    intermediate_size=args.width * 4,
    num_hidden_layers=args.layers,
    num_attention_heads=args.width // 32,
    num_key_value_heads=args.width // 32,
    head_dim=32,
    max_position_embeddings=MAX_LENGTH,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=end,
    pad_token_id=end,
    initializer_range=0.05,
)
model = LlamaForCausalLM(config)
print(f"model: {sum(weight.numel() for weight in model.parameters()):,} parameters")


def batches() -> list[list[tuple[list[int], list[int]]]]:
    """The next 4096 pairs as batches of sequences of like length: ids and labels, which are -100 for what is given."""
    given, written = zip(*(pair(rng) for _ in range(4_096)), strict=True)
    rows = []
    for before, after in zip(tokenizer(list(given))["input_ids"], tokenizer(list(written))["input_ids"], strict=True):
        if len(before) + len(after) <= (args.short if seen < args.tokens / 4 else args.longest):
            rows.append((before + after, [-100] * len(before) + after))
    rows.sort(key=lambda row: len(row[0]))
    made: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if (len(made[-1]) + 1) * len(row[0]) > args.batch:
            made.append([])
        made[-1].append(row)
    rng.shuffle(made)
    return made


decayed = [weight for weight in model.parameters() if weight.ndim > 1]
others = [weight for weight in model.parameters() if weight.ndim == 1]
groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
seen, step, began, losses = 0, 0, time.monotonic(), []
waiting: list[list[tuple[list[int], list[int]]]] = []
while seen < args.tokens:
    if not waiting:
        waiting = batches()
    rows = waiting.pop()
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [end] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([wanted + [-100] * (length - len(wanted)) for _, wanted in rows])
    done = seen / args.tokens
    rate = args.rate * (done / 0.02 if done < 0.02 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.02) / 0.98))
    for group in optimizer.param_groups:
        group["lr"] = max(rate, 1e-6)
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        logits = model.lm_head(hidden[wanted != -100])
    loss = torch.nn.functional.cross_entropy(logits.float(), wanted[wanted != -100])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seen += sum(len(ids) for ids, _ in rows)
    step += 1
    losses.append(loss.item())
    if step % 200 == 0 or seen >= args.tokens:
        took = time.monotonic() - began
        mean = sum(losses[-200:]) / len(losses[-200:])
        print(f"step {step} tokens {seen:,} loss {mean:.4f} {seen / took:,.0f} tokens/s {took:.0f} s", flush=True)

model.to(torch.bfloat16).save_pretrained(args.out)
(args.out / "model.safetensors").chmod(0o644)
tokenizer.save_pretrained(args.out)
generation = {"do_sample": True, "temperature": 0.7, "eos_token_id": end, "pad_token_id": end}
(args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
print(f"saved to {args.out.name} after {time.monotonic() - began:.0f} s")
