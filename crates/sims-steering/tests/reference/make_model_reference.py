#!/usr/bin/env python3
"""Makes bipo.json and heads.json: what transformers and PyTorch compute through whole models.

    python3 crates/sims-steering/tests/reference/make_model_reference.py

Needs torch and transformers (made with torch 2.15.0, transformers 5.24.0). The models are the checkpoints with random
weights in crates/sims-model/tests/fixtures, every kind of each family that transformers opens as a language model.

bipo.json, by checkpoint: the loss of bi-directional preference optimisation for one pair, with `VECTOR * sign` added
by a forward hook to every state of block LAYER, and PyTorch's derivative by the vector.

heads.json, by checkpoint: the logits after a forward pre-hook of block LAYER's attention output projection has added
`0.1 * sin(1 + j)` to each input j at positions from EDIT_FROM on, the last position's inputs before that, and the width of a head.
"""

import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
FIXTURES = HERE.parents[2] / "sims-model" / "tests" / "fixtures"
NAMES = [
    "gemma2", "gemma3-text", "granite", "llama-biases-head-dim", "llama-gqa-untied", "llama-llama3-rope",
    "llama-mha-tied", "mistral-window", "mixtral", "olmo2", "phi3-longrope", "qwen2", "qwen3", "qwen3-moe",
    "qwen3-moe-unnormed", "smollm3",
]  # fmt: skip
LAYER, EDIT_FROM, BETA = 1, 6, 0.1


def tokens(count, stride, vocab):
    return [(3 + stride * i) % vocab for i in range(count)]


def open_model(name):
    return AutoModelForCausalLM.from_pretrained(
        FIXTURES / name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def blocks_of(model):
    return model.model.layers


def log_probability(model, prompt, response):
    logits = model(torch.tensor([prompt + response])).logits[0].double()
    chosen = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return chosen.gather(1, torch.tensor(response)[:, None]).sum()


def bipo(model):
    vocab, width = model.config.vocab_size, model.config.hidden_size
    prompt, chosen, rejected = tokens(9, 7, vocab), tokens(6, 11, vocab), tokens(4, 13, vocab)
    vector = torch.tensor([0.2 * math.sin(1 + j) for j in range(width)], requires_grad=True)
    with torch.no_grad():
        reference = [log_probability(model, prompt, response) for response in (chosen, rejected)]
    result = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    result["reference"] = [value.item() for value in reference]
    for sign in (1, -1):

        def hook(module, inputs, output):
            return output + sign * vector if torch.is_tensor(output) else (output[0] + sign * vector, *output[1:])

        handle = blocks_of(model)[LAYER].register_forward_hook(hook)
        ratios = [
            log_probability(model, prompt, response) - before
            for response, before in zip((chosen, rejected), reference)
        ]
        handle.remove()
        loss = -torch.nn.functional.logsigmoid(sign * BETA * (ratios[0] - ratios[1]))
        (gradient,) = torch.autograd.grad(loss, vector)
        result["plus" if sign > 0 else "minus"] = {"loss": loss.item(), "gradient": gradient.tolist()}
    return result


def heads(model):
    prompt = tokens(11, 7, model.config.vocab_size)
    seen = {}

    def hook(module, inputs):
        (states,) = inputs
        seen["inputs"] = states[0].detach().clone()
        shift = 0.1 * torch.sin(1 + torch.arange(states.shape[-1], dtype=torch.float32))
        edited = states.clone()
        edited[:, EDIT_FROM:] += shift
        return (edited,)

    handle = blocks_of(model)[LAYER].self_attn.o_proj.register_forward_pre_hook(hook)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
    handle.remove()
    heads = model.config.num_attention_heads
    return {
        "prompt": prompt,
        "head_dim": seen["inputs"].shape[-1] // heads,
        "last_inputs": seen["inputs"][-1].tolist(),
        "last_logits": logits[-1].tolist(),
    }


def rounded(value):
    """Keeps eight digits, what a float has."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def main():
    found = {"bipo": {}, "heads": {}}
    for name in NAMES:
        model = open_model(name)
        found["bipo"][name] = bipo(model)
        found["heads"][name] = heads(model)
    for kind, values in found.items():
        lines = (f"{json.dumps(name)}: {json.dumps(rounded(value))}" for name, value in values.items())
        (HERE / f"{kind}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
