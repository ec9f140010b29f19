"""`python -m runtime.label DIR`: captions for a folder of pictures, by a CLIP, a captioner or a tagger."""
