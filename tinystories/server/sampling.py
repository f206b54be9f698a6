"""How the next token of one story is drawn: transformers' own processors, in the order of `generate`."""

import dataclasses
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..decoding import GREEDY, PRESETS, check_preset


@dataclass(frozen=True)
class Sampling:
    """The settings of `generate` that can be asked for; the defaults are those of `generate`."""

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    @classmethod
    def of_preset(cls, preset: str) -> "Sampling":
        """Raises `UserError` for an unknown preset."""
        check_preset(preset)
        return cls(do_sample=preset != GREEDY, **PRESETS.get(preset, {}))

    @classmethod
    def of_model(cls, config: GenerationConfig) -> "Sampling":
        """As the model's own `generation_config.json` says, or "balanced" where that does not sample."""
        if not config.do_sample:
            return cls.of_preset("balanced")
        given = {field.name: getattr(config, field.name) for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def processors(self) -> LogitsProcessorList:
        steps = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            steps.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.do_sample and self.temperature != 1.0:
            steps.append(TemperatureLogitsWarper(self.temperature))
        if self.do_sample and self.top_k:
            steps.append(TopKLogitsWarper(self.top_k))
        if self.do_sample and self.top_p < 1.0:
            steps.append(TopPLogitsWarper(self.top_p))
        return steps


UNSERVED = (
    "bad_words_ids",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_beams",
    "penalty_alpha",
    "sequence_bias",
    "suppress_tokens",
    "top_h",
    "typical_p",
)


def unserved(config: GenerationConfig) -> list[str]:
    """What a `generation_config.json` asks for beyond `Sampling`."""
    asked = config.to_diff_dict()
    return [name for name in UNSERVED if asked.get(name) not in (None, 0, 1, 1.0)]


class TokenPicker:
    """Draws the tokens of one story, with random numbers of its own: those of `generate` after `set_seed(seed)`.

    Args:
        prompt_ids: what the penalty on repetition sees from the beginning.
        room: most tokens that will be drawn.
    """

    def __init__(self, sampling: Sampling, prompt_ids: list[int], room: int, seed: int, device: torch.device):
        self._processors, self._do_sample = sampling.processors(), sampling.do_sample
        self._generator = torch.Generator(device).manual_seed(seed)
        self._length = len(prompt_ids)
        self._ids = torch.zeros(1, self._length + room, dtype=torch.long, device=device)
        self._ids[0, : self._length] = torch.tensor(prompt_ids, device=device)

    @torch.inference_mode()
    def pick(self, logits: torch.Tensor) -> int:
        """The next token, for logits `[vocab]`.

        Raises:
            RuntimeError: where the logits are no numbers.
        """
        scores = self._processors(self._ids[:, : self._length], logits[None].to(torch.float32, copy=True))
        if self._do_sample:
            token = torch.multinomial(scores.softmax(-1), num_samples=1, generator=self._generator)[0]
        else:
            token = scores.argmax(-1)
        self._ids[:, self._length] = token
        self._length += 1
        return token.item()
