"""Model sizes by name: shape and vocabulary size for a number of parameters.

Heads are 64 wide. `24m` is `TinyLlamaConfig()`; `64m` has the shape of karthyick/llm_tinystories. The two smallest
have smaller vocabularies, since 10,000 entries would be most of their weights.
"""

SIZES: dict[str, dict[str, int]] = {
    name: {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    for name, vocab_size, hidden_size, intermediate_size, layers, heads in (
        ("1m", 2_048, 128, 384, 4, 2),
        ("3m", 4_096, 192, 512, 6, 3),
        ("8m", 10_000, 256, 640, 8, 4),
        ("15m", 10_000, 384, 1_024, 6, 6),
        ("24m", 10_000, 448, 1_536, 7, 7),
        ("33m", 10_000, 512, 1_536, 8, 8),
        ("64m", 10_000, 768, 2_048, 8, 12),
        ("110m", 10_000, 768, 2_688, 12, 12),
    )
}


def parameter_count(shape: dict[str, int]) -> int:
    """Parameters of a model of this shape with tied embeddings and as many key/value heads as query heads."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    layer = 4 * width**2 + 3 * width * inner + 2 * width
    return shape["vocab_size"] * width + shape["num_hidden_layers"] * layer + width
