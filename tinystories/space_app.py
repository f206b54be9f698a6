"""The app.py of a demo Space: a story that is written while you watch. It runs alone, with what `story.json` says.

It offers what the page of `tinystories serve` does, made with Gradio, which a Space on the Hub brings along.
"""

import json
import secrets
from pathlib import Path
from threading import Event, Thread

import gradio as gr
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList, TextIteratorStreamer, set_seed


SETTINGS = json.loads(Path(__file__).with_name("story.json").read_text("utf-8"))
PRESETS = SETTINGS["presets"]
GREEDY = "greedy"
THEME = gr.themes.Default(primary_hue="amber", neutral_hue="stone").set(
    button_primary_background_fill="*primary_700",  # on which white letters can be read
    button_primary_background_fill_hover="*primary_800",
)
WHERE = {"revision": SETTINGS["revision"], "trust_remote_code": True}
model = AutoModelForCausalLM.from_pretrained(SETTINGS["model"], **WHERE).eval()
tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"], **WHERE)


def tell(beginning: str, preset: str, temperature: float, length: int, seed: str = ""):
    """The story so far and how it goes, again and again until it has ended."""
    if not beginning.strip():
        raise gr.Error("How does the story begin?")
    inputs = tokenizer(beginning, return_tensors="pt", return_token_type_ids=False)
    used = inputs["input_ids"].shape[1]
    room = model.config.max_position_embeddings - used
    if room < 1:
        raise gr.Error(f"The beginning is {used} tokens long, more than the model can read: shorten it.")
    if seed and not (seed.isascii() and seed.isdigit() and int(seed) < 2**32):
        raise gr.Error("The seed must be a whole number below 4294967296, or nothing.")
    seed = int(seed) if seed else secrets.randbits(32)
    how = {"do_sample": False, "repetition_penalty": 1.0}
    if preset != GREEDY:
        how = {"do_sample": True, **PRESETS[preset], "temperature": temperature}
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True, timeout=60)
    stopped, written = Event(), []

    def write():
        try:
            set_seed(seed)
            arguments = {**inputs, **how, "max_new_tokens": min(int(length), room)}
            stop = StoppingCriteriaList([lambda ids, scores, **_: stopped.is_set()])
            written.append(model.generate(**arguments, streamer=streamer, stopping_criteria=stop).shape[1] - used)
        finally:
            streamer.end()

    writer, story = Thread(target=write, daemon=True), ""
    writer.start()
    try:
        for piece in streamer:
            story += piece
            yield story, f"seed {seed}"
        writer.join()
        if not written:
            raise gr.Error("The story could not be written to its end.")
        yield story, f"{written[0]} tokens · seed {seed}"
    finally:  # also where the reader has stopped it or left
        stopped.set()


def _heat(preset: str) -> float:
    return PRESETS[preset]["temperature"]


with gr.Blocks(title=SETTINGS["model"].split("/")[-1], analytics_enabled=False) as demo:
    gr.Markdown(f"# Tiny stories\ntold by [{SETTINGS['model']}](https://huggingface.co/{SETTINGS['model']})")
    with gr.Row():
        with gr.Column(scale=2):
            beginning = gr.Textbox(
                SETTINGS["beginnings"][0], label="How does it begin?", lines=3, max_lines=8, max_length=2048
            )
            gr.Examples(SETTINGS["beginnings"], beginning, label="or begin with", cache_examples=False)
            with gr.Row():
                write_button = gr.Button("Write the story", variant="primary")
                stop_button = gr.Button("Stop")
            with gr.Accordion("How it is told", open=False):
                preset = gr.Dropdown([*PRESETS, GREEDY], value=SETTINGS["preset"], label="Manner")
                temperature = gr.Slider(0.1, 2.0, _heat(SETTINGS["preset"]), step=0.1, label="Temperature")
                length = gr.Slider(50, 500, 200, step=10, label="Length, at most, in tokens")
                seed = gr.Textbox(
                    "",  # and not None, with which clients of the Space's API would have to name one
                    label="Seed: the same one tells the same story",
                    placeholder="a new story each time",
                    max_length=10,
                )
        with gr.Column(scale=3):
            story = gr.Textbox(label="The story", lines=18, max_lines=40, interactive=False, buttons=["copy"])
            status = gr.Markdown()
            again_button = gr.Button("Another one")

    preset.change(
        lambda name: gr.update(interactive=name != GREEDY, **({} if name == GREEDY else {"value": _heat(name)})),
        preset,
        temperature,
        api_visibility="private",
    )
    how = {
        "fn": tell,
        "inputs": [beginning, preset, temperature, length, seed],
        "outputs": [story, status],
        "show_progress": "hidden",
        "concurrency_id": "stories",
    }
    told = gr.on([write_button.click, beginning.submit], **how, api_name="tell")
    told_again = again_button.click(lambda: "", None, seed, api_visibility="private").then(
        **how, api_visibility="private"
    )
    stop_button.click(lambda: "stopped", None, status, cancels=[told, told_again], api_visibility="private")

if __name__ == "__main__":
    demo.queue(max_size=20).launch(theme=THEME)
