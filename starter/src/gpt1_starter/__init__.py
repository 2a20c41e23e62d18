"""The folder `model` beside this file is a run of gpt1 and a Hugging Face model; `gpt1.load("starter")` loads it."""
