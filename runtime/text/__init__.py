"""Text for language models: conversations as token ids with the mask of what is trained, packing, the loss."""
