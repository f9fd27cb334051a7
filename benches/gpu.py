#!/usr/bin/env python3
"""The round of benches/gpu.sh: parity on small models, then speed on a large one, as one JSON file.

Each step writes the file anew, so that a round that is cut short keeps what it has. Steps, in order:

parity      small random models of several families in f32: every block's output, logits and greedy tokens against
            transformers on the same device; the own kernels against the tensor library's operations; errors in bf16
machine     memory bandwidth (copy, and a matrix-vector product, which is what decoding does) and peak matrix rate
make        an 8 B Llama with random bf16 weights
sims        sampling at batch 128, 16 and 1, steered and unsteered; sims_states: reading states
reference   the same by transformers' generate with forward hooks

Sampling: prompts of 128 tokens, 256 new ones. Steering: Householder pseudo-rotation with an angle network on five
layers, on both sides.
"""

import json
import math
import os
import subprocess
import sys
import time

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

START = time.monotonic()
TINY = os.environ.get("SIZE", "full") == "tiny"
DEVICE = os.environ.get("DEVICE", "cuda")
DEADLINE = float(os.environ.get("DEADLINE", "460"))
WORK, RESULTS = sys.argv[1:3]
BINARY = f"{WORK}/sims-model"

PROMPT, NEW = (16, 8) if TINY else (128, 256)
BATCHES = [8, 4, 1] if TINY else [128, 16, 1]
STATES_PROMPT, STATES_BATCH = (32, 4) if TINY else (1024, 16)
STEERED = 2 if TINY else 5
# bf16 rounds on a CPU only within our own kernels, so the stand-in runs in f32.
BIG_DTYPE = "f32" if DEVICE == "cpu" else "bf16"

FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", dict(head_dim=64)),
    "llama-wide-head": ("LlamaConfig", "LlamaForCausalLM", dict(head_dim=128)),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", dict(head_dim=64)),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", dict(head_dim=64, sliding_window=24, query_pre_attn_scalar=64)),
}

report = {"steps": {}}


def left():
    return DEADLINE - (time.monotonic() - START)


def step(name, function):
    """Runs a step, and records its result or what stopped it."""
    if left() < 5:
        report["steps"][name] = {"skipped": "out of time"}
    else:
        start = time.monotonic()
        try:
            result = function()
        except Exception as error:  # the other steps are still worth running
            result = {"error": f"{type(error).__name__}: {error}"[-2000:]}
        result["seconds"] = round(time.monotonic() - start, 2)
        report["steps"][name] = result
    with open(RESULTS, "w") as file:
        json.dump(report, file, indent=1)
    print(name, json.dumps(report["steps"][name])[:600], flush=True)


def sims(*arguments):
    """Runs the binary and returns its JSON lines."""
    environment = dict(os.environ)
    if os.environ.get("SIMS_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = os.environ["SIMS_LIBRARY_PATH"]
    done = subprocess.run(
        [BINARY, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=max(5, left()),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: {done.stderr[-1500:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def synchronise():
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def timed(function):
    synchronise()
    start = time.perf_counter()
    result = function()
    synchronise()
    return time.perf_counter() - start, result


def small_model(family):
    config_class, model_class, changes = FAMILIES[family]
    config = getattr(transformers, config_class)(
        **dict(
            vocab_size=1024,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=family.startswith("gemma"),
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            initializer_range=0.08,
        )
        | changes
    )
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config).eval()
    directory = f"{WORK}/{family}"
    model.save_pretrained(directory)
    return directory


def largest(a, b):
    return float((a - b).abs().max())


def states(directory, tokens, *flags):
    out = f"{WORK}/states.safetensors"
    sims("forward", "--model", directory, "--tokens", ",".join(map(str, tokens)), "--out", out, "--json", "--device", DEVICE, *flags)
    with safe_open(out, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def parity(family):
    directory = small_model(family)
    tokens = [(37 * i + 11) % 1024 for i in range(48)]
    ids = torch.tensor([tokens], device=DEVICE)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    model = model.eval().to(DEVICE)
    with torch.inference_mode():
        reference = model(ids, output_hidden_states=True)
        greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0)
        scores = model(greedy).logits[0].float().cpu()
    logits = reference.logits[0].float().cpu()
    ours = states(directory, tokens)
    result = {"logits_size": float(logits.abs().max()), "logits_error": largest(ours["logits"], logits)}
    # transformers applies the final norm to the last entry, so that block is compared through the logits.
    blocks = [reference.hidden_states[i + 1][0].float().cpu() for i in range(model.config.num_hidden_layers - 1)]
    result["blocks_error"] = max(largest(ours[f"block.{i}"], block) for i, block in enumerate(blocks))
    plain = states(directory, tokens, "--plain-kernels")
    result["own_against_plain_kernels"] = largest(ours["logits"], plain["logits"])
    text = ",".join(map(str, tokens))
    [generated] = sims("generate", "--model", directory, "--tokens", text, "--max-new-tokens", 32, "--temperature", 0, "--json", "--device", DEVICE)
    expected = greedy[0, len(tokens) :].tolist()
    found = generated["token_ids"]
    result["greedy_equal"] = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), len(expected))
    if result["greedy_equal"] < len(expected):
        top = scores[len(tokens) + result["greedy_equal"] - 1].topk(2).values
        result["top_two_gap_there"] = float(top[0] - top[1])
    if DEVICE != "cpu":
        half = model.to(torch.bfloat16)
        with torch.inference_mode():
            theirs = half(ids).logits[0].float().cpu()
        result["bf16_error_transformers"] = largest(theirs, logits)
        result["bf16_error"] = largest(states(directory, tokens, "--dtype", "bf16")["logits"], logits)
    result["passed"] = result["logits_error"] < 2e-3 and result["own_against_plain_kernels"] < 2e-3
    return result


def machine():
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype = torch.float32 if DEVICE == "cpu" else torch.bfloat16
    size = 1 << 22 if TINY else 1 << 31
    source = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = min(timed(lambda: target.copy_(source))[0] for _ in range(10))
    del source, target
    rows, width = (1024, 1024) if TINY else (65536, 8192)
    matrix = torch.randn(rows, width, dtype=dtype, device=DEVICE)
    vector = torch.randn(width, dtype=dtype, device=DEVICE)
    repeats = 10
    product = min(timed(lambda: [matrix @ vector for _ in range(repeats)])[0] for _ in range(5)) / repeats
    side = 256 if TINY else 8192
    a, b = (torch.randn(side, side, dtype=dtype, device=DEVICE) for _ in range(2))
    matrices = min(timed(lambda: [a @ b for _ in range(repeats)])[0] for _ in range(5)) / repeats
    return {
        "device": "cpu" if DEVICE == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "copy_bytes_per_second": 2 * size / copy,
        "matrix_vector_bytes_per_second": rows * width * matrix.element_size() / product,
        "matrix_flops_per_second": 2 * side**3 / matrices,
    }


BIG = f"{WORK}/big"
SHAPE = (
    dict(vocab_size=1024, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)
    if TINY
    else dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
)


def make():
    """Writes the weights shard by shard, without ever building the model."""
    os.makedirs(BIG, exist_ok=True)
    config = transformers.LlamaConfig(
        **SHAPE, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(BIG)
    hidden, inner = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * (hidden // config.num_attention_heads)
    torch.manual_seed(1)
    generator_device = DEVICE

    def random(*shape):
        weight = torch.randn(*shape, dtype=torch.float32, device=generator_device) * 0.02
        return weight.to(torch.bfloat16).cpu()

    def ones():
        return torch.ones(hidden, dtype=torch.bfloat16)

    total, index = 0, {}

    def save(name, tensors):
        nonlocal total
        save_file(tensors, f"{BIG}/{name}", metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))
        total += sum(tensor.numel() for tensor in tensors.values())

    save(
        "outer.safetensors",
        {
            "model.embed_tokens.weight": random(config.vocab_size, hidden),
            "lm_head.weight": random(config.vocab_size, hidden),
            "model.norm.weight": ones(),
        },
    )
    for layer in range(config.num_hidden_layers):
        p = f"model.layers.{layer}."
        save(
            f"layer-{layer}.safetensors",
            {
                p + "input_layernorm.weight": ones(),
                p + "post_attention_layernorm.weight": ones(),
                p + "self_attn.q_proj.weight": random(hidden, hidden),
                p + "self_attn.k_proj.weight": random(kv, hidden),
                p + "self_attn.v_proj.weight": random(kv, hidden),
                p + "self_attn.o_proj.weight": random(hidden, hidden),
                p + "mlp.gate_proj.weight": random(inner, hidden),
                p + "mlp.up_proj.weight": random(inner, hidden),
                p + "mlp.down_proj.weight": random(hidden, inner),
            },
        )
    with open(f"{BIG}/model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {"total_size": 2 * total}, "weight_map": index}, file)
    return {"parameters": total}


def our_bench(command, *arguments):
    common = [command, "--model", BIG, "--json", "--device", DEVICE, "--dtype", BIG_DTYPE]
    start = time.monotonic()
    rounds = sims(*common, *arguments)
    return {"rounds": rounds, "seconds_with_loading": round(time.monotonic() - start, 2)}


def sampling():
    """Each batch without a steering and with one, a rotation with an angle network at some layers."""
    steering = f"{WORK}/steering.safetensors"
    digest = sims("info", BIG, "--json")[0]["digest"]
    maker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "random_model.py")
    subprocess.run([sys.executable, maker, "steering", "hpr", str(STEERED), BIG, steering, "--digest", digest], check=True)
    lengths = ["--prompt-tokens", PROMPT, "--new-tokens", NEW, "--prefill-rows", 8192, "--temperature", 1]
    return our_bench("bench", *lengths, "--batch", ",".join(map(str, BATCHES)), "--rounds", 2, "--steering", steering)


def reading():
    """The states of the last prompt token at every fourth layer."""
    layers = ",".join(str(layer) for layer in range(0, SHAPE["num_hidden_layers"], 4))
    lengths = ["--shortest", STATES_PROMPT, "--longest", STATES_PROMPT, "--sequences", STATES_BATCH, "--max-rows", 8192]
    return our_bench("bench-extract", *lengths, "--layers", layers, "--rounds", 3)


class Rotation:
    """The same edit as a forward hook: rows below the plane turn by the angle that a network predicts."""

    def __init__(self, hidden, device):
        widths = [hidden, hidden // 2, hidden // 4, hidden // 8, 1]
        layers = []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.GELU()]
        self.net = torch.nn.Sequential(*layers[:-1]).float().to(device)
        self.normal = torch.nn.functional.normalize(torch.randn(hidden, device=device), dim=0)

    def __call__(self, module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        rows = hidden[:, -1].float()
        length = rows.norm(dim=-1, keepdim=True)
        cosine = (rows @ self.normal).unsqueeze(-1) / length
        sine = (1 - cosine**2).clamp(min=0).sqrt()
        angle = math.pi * torch.sigmoid(self.net(rows))
        turned = (angle.cos() - angle.sin() * cosine / sine) * rows + angle.sin() * length / sine * self.normal
        hidden[:, -1] = torch.where(cosine <= 0, turned, rows).to(hidden.dtype)
        return output


def reference():
    result = {"rounds": []}
    dtype = torch.float32 if BIG_DTYPE == "f32" else torch.bfloat16
    load, model = timed(lambda: AutoModelForCausalLM.from_pretrained(BIG, dtype=dtype, attn_implementation="sdpa").eval().to(DEVICE))
    result["load_seconds"] = load
    model.generation_config.eos_token_id = None
    vocab = model.config.vocab_size
    layers = model.config.num_hidden_layers

    def prompts(batch, length):
        rows = [[(7 * row + 13 * i + 3) % vocab for i in range(length)] for row in range(batch)]
        return torch.tensor(rows, device=DEVICE)

    def generate(batch, new):
        ids = prompts(batch, PROMPT)
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
        )  # fmt: skip

    with torch.inference_mode():
        for batch, steered, rounds in [(BATCHES[0], STEERED, 2), (BATCHES[0], 0, 1), (BATCHES[1], 0, 1), (BATCHES[2], 0, 1)]:
            if left() < 20 and not TINY:
                result["cut_short"] = True
                break
            hooks = [
                model.model.layers[i * layers // steered].register_forward_hook(Rotation(model.config.hidden_size, DEVICE))
                for i in range(steered)
            ]
            generate(batch, 2)
            for _ in range(rounds):
                seconds, _ = timed(lambda: generate(batch, NEW))
                result["rounds"].append(
                    {"engine": "transformers, steered" if steered else "transformers", "batch": batch, "seconds": seconds, "new_tokens": batch * NEW, "new_tokens_per_second": batch * NEW / seconds}
                )
            for hook in hooks:
                hook.remove()
        ids = prompts(STATES_BATCH, STATES_PROMPT)
        rows = max(1, 8192 // STATES_PROMPT)
        passes = [ids[i : i + rows] for i in range(0, STATES_BATCH, rows)]
        forward = lambda: [model.model(part, use_cache=False, output_hidden_states=True) is None for part in passes]  # noqa: E731
        forward()
        seconds = min(timed(forward)[0] for _ in range(2))
        result["states_tokens_per_second"] = STATES_BATCH * STATES_PROMPT / seconds
    return result


def summary():
    """Relates what was measured; a figure is absent where its parts are."""
    steps = report["steps"]
    ours = steps.get("sims", {}).get("rounds", [])
    theirs = steps.get("reference", {}).get("rounds", [])

    def speed(rounds, batch, steered):
        return max((r["new_tokens_per_second"] for r in rounds if r["batch"] == batch and r["engine"].endswith("steered") == (steered > 0)), default=None)

    result = {"speeds": []}
    peak = steps.get("machine", {})
    parameters = steps.get("make", {}).get("parameters")
    for batch, steered in [(BATCHES[0], STEERED), (BATCHES[0], 0), (BATCHES[1], 0), (BATCHES[2], 0)]:
        line = {"batch": batch, "steered_layers": steered, "sims": speed(ours, batch, steered), "transformers": speed(theirs, batch, steered)}
        if line["sims"] and line["transformers"]:
            line["ratio"] = line["sims"] / line["transformers"]
        if line["sims"] and parameters and "matrix_vector_bytes_per_second" in peak:
            # Every weight but the embedding's is read once a step; keys and values come on top.
            size = (4 if BIG_DTYPE == "f32" else 2) * (parameters - SHAPE["vocab_size"] * SHAPE["hidden_size"])
            steps_per_second = line["sims"] / batch
            line["weights_read_of_bandwidth"] = size * steps_per_second / peak["matrix_vector_bytes_per_second"]
        result["speeds"].append(line)
    rounds = steps.get("sims_states", {}).get("rounds", [])
    if rounds and parameters:
        tokens = max(r["tokens_per_second"] for r in rounds)
        flops = 2 * (parameters - 2 * SHAPE["vocab_size"] * SHAPE["hidden_size"])
        result["states_tokens_per_second"] = tokens
        result["states_transformers"] = steps.get("reference", {}).get("states_tokens_per_second")
        if "matrix_flops_per_second" in peak:
            result["states_of_peak"] = flops * tokens / peak["matrix_flops_per_second"]
    result["all_seconds"] = round(time.monotonic() - START, 1)
    return result


def main():
    for family in FAMILIES:
        step(f"parity_{family}", lambda family=family: parity(family))
    step("machine", machine)
    step("make", make)
    if DEVICE != "cpu":
        torch.cuda.empty_cache()
    step("sims", sampling)
    step("sims_states", reading)
    step("reference", reference)
    step("summary", summary)


main()
