"""The models that benchmarks of whole models and of their operators go through."""

MODELS = (
    "llama-3.1-8b", "qwen2.5-7b", "qwen3-8b", "mixtral-8x7b", "qwen3-30b-a3b", "gemma-3-4b", "phi-4", "phi-4-mini",
)  # fmt: skip
