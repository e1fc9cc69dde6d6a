"""Loads a folder trained by Sluice in Hugging Face transformers and compares logits and token ids.

    sluice tokenizer encode --model RUN/latest --file TEXT >ids.txt
    sluice score --model RUN --ids "$(tr ' ' , <ids.txt | cut -d, -f1-200)" --logits logits.safetensors >/dev/null
    python3 tests/interop/check_transformers.py RUN/latest TEXT ids.txt logits.safetensors

Needs torch, transformers and safetensors. Exits 1 when logits differ by more than 2e-4 of the largest, or ids differ.
"""
import sys

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, text_file, ids_file, logits_file = sys.argv[1:]
ids = [int(x) for x in open(ids_file).read().split()]
expected = load_file(logits_file)["logits"]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor([ids[: expected.shape[0]]])).logits[0].float()
error = ((logits - expected).abs().max() / logits.abs().max()).item()
tokens = AutoTokenizer.from_pretrained(folder)(open(text_file).read(), add_special_tokens=False)["input_ids"]
print(f"transformers {transformers.__version__}: logits {tuple(logits.shape)} differ by {error:.1e}; ids {'same' if tokens == ids else 'DIFFER'}")
sys.exit(error > 2e-4 or tokens != ids)
