"""The app.py of a demo Space: a story that is written while you watch. It runs alone, with what `story.json` says."""

import json
from pathlib import Path
from threading import Thread

import gradio as gr
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


SETTINGS = json.loads(Path(__file__).with_name("story.json").read_text("utf-8"))
WHERE = {"revision": SETTINGS["revision"], "trust_remote_code": True}
model = AutoModelForCausalLM.from_pretrained(SETTINGS["model"], **WHERE).eval()
tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"], **WHERE)


def tell(beginning: str, preset: str):
    """The story so far, again and again until it has ended."""
    inputs = tokenizer(beginning, return_tensors="pt", return_token_type_ids=False)
    room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
    if room < 1:
        raise gr.Error("This beginning is too long for the model: shorten it.")
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True, timeout=60)
    how = {"do_sample": True, "max_new_tokens": room, **SETTINGS["presets"][preset]}
    Thread(target=model.generate, kwargs={**inputs, **how, "streamer": streamer}, daemon=True).start()
    story = ""
    for piece in streamer:
        story += piece
        yield story


demo = gr.Interface(
    fn=tell,
    inputs=[
        gr.Textbox(label="Beginning", value=SETTINGS["beginnings"][0], lines=2, max_length=1000),
        gr.Dropdown(list(SETTINGS["presets"]), value=SETTINGS["preset"], label="How it is told"),
    ],
    outputs=gr.Textbox(label="Story", lines=14),
    examples=[[beginning, SETTINGS["preset"]] for beginning in SETTINGS["beginnings"]],
    cache_examples=False,
    title=SETTINGS["model"].split("/")[-1],
    description=f"Stories by [{SETTINGS['model']}](https://huggingface.co/{SETTINGS['model']}), as it writes them.",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.queue(max_size=20).launch()
