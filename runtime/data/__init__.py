"""From locked pictures to the batches of a step: order, draws, pixels, cache, batch."""
