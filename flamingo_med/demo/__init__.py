"""The demo page: an image, a question, the answer, its alternatives and the map of where it comes from."""
