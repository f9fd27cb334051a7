#!/usr/bin/env python3
"""The llama.cpp side of generate.sh: `gguf DIR FILE` and `run FILE`.

`gguf` writes a Llama in a Hugging Face directory as a GGUF file without a tokenizer, which is all that
llama-batched-bench needs. `run` starts that program (LLAMA_BATCHED_BENCH) and prints one JSON object.

Its figures differ from the others' in three ways, all in its favour: it chooses no tokens (it feeds random
ones), computes no probabilities, and keeps keys and values in f16. Its decode steps are one fewer than the
new tokens, as the first token comes from the prompt. Needs numpy, safetensors and gguf.

To build the program from the sources in a Python package (some ten minutes):

  pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
  tar xf llama_cpp_python-0.3.36.tar.gz && cd llama_cpp_python-0.3.36/vendor/llama.cpp
  cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \\
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
  cmake --build build --target llama-batched-bench
  export LLAMA_BATCHED_BENCH=$PWD/build/bin/llama-batched-bench
"""

import argparse
import json
import os
import subprocess
import sys

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def rotate_neighbours(weight, heads):
    """Orders a head's rows so that rotated pairs are neighbours, as llama.cpp wants them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf(args):
    import gguf
    from safetensors.numpy import load_file

    with open(f"{args.directory}/config.json") as file:
        config = json.load(file)
    if config["model_type"] != "llama":
        sys.exit(f"{args.directory}: a model of type {config['model_type']}, not llama")
    rope = config.get("rope_parameters") or config
    if (config.get("rope_scaling") or rope).get("rope_type", "default") != "default":
        sys.exit(f"{args.directory}: scaled rotary embeddings are not converted")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(args.file, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("no_vocab")
    types = gguf.GGMLQuantizationType
    matrices = {"f32": types.F32, "bf16": types.BF16}[args.dtype]
    for name, values in load_file(f"{args.directory}/model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            new = f"blk.{layer}.{BLOCK[part]}.weight"
            if part.endswith(("q_proj", "k_proj")):
                values = rotate_neighbours(values, heads if part.endswith("q_proj") else kv_heads)
        else:
            new = f"{OUTER[stem]}.weight"
        stored = types.F32 if values.ndim == 1 else matrices
        writer.add_tensor(new, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(args):
    steps = args.new_tokens - 1
    room = args.batch * (args.prompt_tokens + args.new_tokens)
    command = [
        os.environ["LLAMA_BATCHED_BENCH"],
        *["-m", args.file, "-c", room, "-t", args.threads, "-tb", args.threads],
        # One step to warm up, and one after the measured ones: the program may end before its last line is out.
        *["-npp", args.prompt_tokens, "-ntg", f"1,{steps},1", "-npl", args.batch, "--output-format", "jsonl"],
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    results = [result for result in map(json.loads, lines) if result["tg"] == steps]
    if done.returncode != 0 or not results:
        sys.exit(f"llama-batched-bench failed:\n{done.stdout}{done.stderr}")
    seconds = results[-1]["t"]
    tokens = args.batch * args.new_tokens
    result = {"engine": "llama.cpp", "seconds": seconds, "new_tokens": tokens, "new_tokens_per_second": tokens / seconds}
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("gguf", help="write a model as GGUF")
    command.add_argument("directory")
    command.add_argument("file")
    command.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    command.set_defaults(call=gguf)
    command = commands.add_parser("run", help="time llama-batched-bench")
    command.add_argument("file")
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--prompt-tokens", type=int, default=32)
    command.add_argument("--new-tokens", type=int, default=64)
    command.add_argument("--threads", type=int, default=2)
    command.set_defaults(call=run)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
