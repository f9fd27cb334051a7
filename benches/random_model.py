#!/usr/bin/env python3
"""Writes random models and steerings for the benchmarks.

`model PRESET DIR` writes a random Llama as a Hugging Face directory: `tiny` (1.24 M parameters, the
built-in model's size), `m3` (3.1 M) or `m100` (88 M). `steering KIND LAYERS MODEL_DIR FILE` writes a
steering of that model, by kind and number of layers (the last but one, and those before it): `add`, a
vector, or `hpr`, a Householder rotation whose angle a network of depth 3 predicts and that edits every row.
`digest` is what `sims-model info` prints. Needs torch, transformers and safetensors.
"""

import argparse
import itertools
import json
import struct

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PRESETS = {
    "tiny": dict(
        vocab_size=300,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    ),
    "m3": dict(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    ),
    "m100": dict(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
}


def model(args):
    config = LlamaConfig(
        **PRESETS[args.preset],
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(args.directory)
    words = {f"w{i}": i for i in range(config.vocab_size)}
    tokenizer = TOKENIZER | {"model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    with open(f"{args.directory}/tokenizer.json", "w") as file:
        json.dump(tokenizer, file)


def steering(args):
    with open(f"{args.model}/config.json") as file:
        config = json.load(file)
    hidden, count = config["hidden_size"], config["num_hidden_layers"]
    layers = list(range(count - 1 - args.layers, count - 1))
    torch.manual_seed(1)
    tensors, edits = {}, []
    for layer in layers:
        edit = {"layer": layer, "index": 0, "strength": 1.0, "preserve_norm": False}
        prefix = f"layer.{layer}.0"
        if args.kind == "add":
            tensors[f"{prefix}.vector"] = 0.01 * torch.randn(hidden)
            edit |= {"kind": "additive"}
        else:
            tensors[f"{prefix}.normal"] = torch.randn(hidden)
            widths = [hidden, hidden // 2, hidden // 4, 1]
            for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
                tensors[f"{prefix}.angle.{i}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
                tensors[f"{prefix}.angle.{i}.bias"] = torch.zeros(outputs)
            angle = {"rule": "net", "depth": 3, "input_scale": 1.0, "scale": 0.1}
            # An edge of a quarter turn is above every row, so that none is left alone.
            edit |= {"kind": "householder", "edge": 1.6, "kappa": None, "max_angle": None, "angle": angle}
        edits.append(edit)
    metadata = {
        "format": 1,
        "operator": {"add": "mean-difference", "hpr": "hpr"}[args.kind],
        "compose": "replace",
        "layers": layers,
        "strength": 1.0,
        "model": args.digest,
        "hidden_size": hidden,
        "num_hidden_layers": count,
        "edits": edits,
        "fit": None,
    }
    write_tensors(args.file, tensors, metadata)


def write_tensors(path, tensors, metadata):
    header, data = {"__metadata__": {"sims": json.dumps(metadata, sort_keys=True)}}, b""
    for name in sorted(tensors):
        values = tensors[name].flatten().tolist()
        part = struct.pack(f"<{len(values)}f", *values)
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("model", help="write a random model")
    command.add_argument("preset", choices=PRESETS)
    command.add_argument("directory")
    command.set_defaults(call=model)
    command = commands.add_parser("steering", help="write a random steering of a model")
    command.add_argument("kind", choices=["add", "hpr"])
    command.add_argument("layers", type=int)
    command.add_argument("model")
    command.add_argument("file")
    command.add_argument("--digest", required=True)
    command.set_defaults(call=steering)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
