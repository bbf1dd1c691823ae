"""Where training examples come from: images, read, checked and split."""
