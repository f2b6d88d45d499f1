"""GenEval on photographs: the official rules, a detector from transformers, colours by CLIP."""
