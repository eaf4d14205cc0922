"""Data in, answers out: images, data sets, the processor, batches, answers and their scores."""
