"""Which token has a model learnt to predict: the next one, or one further ahead?

Labels that were shifted twice, once in the data and once in the model, teach position t the token t+2. Such a model
leaves out the small words, and its loss two tokens ahead is lower than its loss at the next token. In a model that
was trained as usual it is the other way round, by nats.
"""

from collections.abc import Iterable

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def loss_ahead(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], distance: int = 1
) -> float:
    """Mean cross-entropy, in nats a token, of the token that stands `distance` places after each position.

    `distance` 1 is the loss that `model(input_ids, labels=input_ids)` reports, counted over all tokens at once.

    Args:
        texts: each scored alone, with what the tokenizer puts in front of it, and cut to the context of the model.
        distance: at least 1.

    Raises:
        ValueError: where no text is longer than `distance` tokens.
    """
    if distance < 1:
        raise ValueError(f"`distance` is counted from a token to one after it: at least 1, not {distance}.")
    context = model.config.max_position_embeddings
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text, verbose=False)["input_ids"][:context]], device=model.device)
        if ids.shape[1] <= distance:
            continue
        logits = model(ids).logits[0, :-distance].float()
        total += cross_entropy(logits, ids[0, distance:], reduction="sum").item()
        count += len(logits)
    model.train(was_training)
    if not count:
        raise ValueError(f"There is no text of more than {distance} tokens to score.")
    return total / count
