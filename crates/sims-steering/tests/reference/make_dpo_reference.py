#!/usr/bin/env python3
"""Makes dpo.json: what PyTorch computes of DPO through models with low-rank adapters.

    python3 crates/sims-steering/tests/reference/make_dpo_reference.py

Needs torch and transformers (made with torch 2.15.0, transformers 5.24.0). The models are the checkpoints with random
weights in crates/sims-model/tests/fixtures. Every linear layer named in TARGETS that a checkpoint has gets, in every
block, an adapter of rank RANK whose values are sines (see `sines`): y = W x + ALPHA / RANK * B (A x).

By checkpoint: two pairs, their log-probabilities under the model itself, the DPO loss of both together and its
derivatives by every A and B; the loss after each of STEPS AdamW steps (no weight decay, the gradient's norm cut to
MAX_NORM, the learning rate falling along a cosine) and the adapter then; and the last logits of the first prompt under
the weights W + ALPHA / RANK * B A, which is how PEFT merges.
"""

import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
FIXTURES = HERE.parents[2] / "sims-model" / "tests" / "fixtures"
NAMES = ["llama-gqa-untied", "llama-biases-head-dim", "gemma2", "phi3-longrope", "qwen3"]
TARGETS = ["q_proj", "v_proj", "qkv_proj", "o_proj", "up_proj", "gate_up_proj", "down_proj"]
RANK, ALPHA, BETA = 2, 4.0, 0.1
STEPS, RATE, MAX_NORM = 3, 0.01, 0.05


def tokens(count, stride, vocab, start=3):
    return [(start + stride * i) % vocab for i in range(count)]


def sines(rows, columns, scale, phase):
    flat = torch.arange(rows * columns, dtype=torch.float64)
    return (scale * torch.sin(phase + flat)).float().reshape(rows, columns)


class Adapted(torch.nn.Module):
    """A linear layer with a low-rank change beside it."""

    def __init__(self, linear, number):
        super().__init__()
        self.linear = linear
        self.a = torch.nn.Parameter(sines(RANK, linear.in_features, 0.3, number))
        self.b = torch.nn.Parameter(sines(linear.out_features, RANK, 0.1, number + 0.5))

    def forward(self, x):
        change = torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b)
        return self.linear(x) + ALPHA / RANK * change

    def merge(self):
        self.linear.weight.data += ALPHA / RANK * self.b.data @ self.a.data
        return self.linear


def targets_of(block):
    """Lists parents, names and full names in the order of the checkpoint's names."""
    found = []
    for name, module in block.named_modules():
        if isinstance(module, torch.nn.Linear) and name.split(".")[-1] in TARGETS:
            parent, _, last = name.rpartition(".")
            found.append((block.get_submodule(parent), last, name))
    return sorted(found, key=lambda entry: entry[2])


def adapt(model):
    modules = {}
    for layer, block in enumerate(model.model.layers):
        for parent, last, name in targets_of(block):
            adapted = Adapted(getattr(parent, last), len(modules))
            setattr(parent, last, adapted)
            modules[f"layers.{layer}.{name}"] = (adapted, parent, last)
    return modules


def log_probability(model, prompt, response):
    logits = model(torch.tensor([prompt + response])).logits[0].double()
    chosen = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return chosen.gather(1, torch.tensor(response)[:, None]).sum()


def loss_of(model, pairs):
    losses = []
    for pair in pairs:
        ratios = [
            log_probability(model, pair["prompt"], pair[side]) - reference
            for side, reference in zip(("chosen", "rejected"), pair["reference"])
        ]
        losses.append(-torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1])))
    return sum(losses) / len(losses)


def case(name):
    model = AutoModelForCausalLM.from_pretrained(
        FIXTURES / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vocab = model.config.vocab_size
    pairs = [
        {"prompt": tokens(9, 7, vocab), "chosen": tokens(6, 11, vocab), "rejected": tokens(4, 13, vocab)},
        {"prompt": tokens(5, 3, vocab, 8), "chosen": tokens(1, 1, vocab, 20), "rejected": tokens(5, 17, vocab)},
    ]
    with torch.no_grad():
        for pair in pairs:
            pair["reference"] = [
                log_probability(model, pair["prompt"], pair[side]).item() for side in ("chosen", "rejected")
            ]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    modules = adapt(model)
    parameters = [values for adapted, _, _ in modules.values() for values in (adapted.a, adapted.b)]

    loss = loss_of(model, pairs)
    gradients = torch.autograd.grad(loss, parameters)
    result = {"pairs": pairs, "loss": loss.item(), "gradients": {}, "losses": [], "trained": {}}
    for index, module in enumerate(modules):
        a, b = gradients[2 * index : 2 * index + 2]
        result["gradients"][module] = {"a": a.flatten().tolist(), "b": b.flatten().tolist()}

    with torch.no_grad():
        kept = [values.detach().clone() for values in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimiser.zero_grad()
        loss_of(model, pairs).backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimiser.step()
        with torch.no_grad():
            result["losses"].append(loss_of(model, pairs).item())
    for module, (adapted, _, _) in modules.items():
        values = {"a": adapted.a, "b": adapted.b}
        result["trained"][module] = {key: value.flatten().tolist() for key, value in values.items()}

    with torch.no_grad():
        for values, before in zip(parameters, kept):
            values.copy_(before)
        for adapted, parent, last in modules.values():
            setattr(parent, last, adapted.merge())
        result["merged_logits"] = model(torch.tensor([pairs[0]["prompt"]])).logits[0, -1].tolist()
    return result


def rounded(value):
    """Keeps eight digits, what a float has."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def main():
    lines = (f"{json.dumps(name)}: {json.dumps(rounded(case(name)))}" for name in NAMES)
    (HERE / "dpo.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
