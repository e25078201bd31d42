"""What is known of each family by its architecture, not by the tables that are tested."""

LAYER_NORMS = (*("cohere", "falcon", "gpt2", "gpt_neox", "olmo", "opt", "phi", "stablelm", "starcoder2"),)
POST_NORMS = ("gemma2", "gemma3_text", "glm4", "olmo2")
FOLDABLE = (
    *("deepseek_v3", "gemma", "glm", "gpt_oss", "granite", "llama", "mistral", "mixtral"),
    *("phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
)
