"""Where training examples come from: images and text, read, checked and split."""
