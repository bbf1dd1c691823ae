"""Images: data sets and their readers, the split, augmentation, batches."""
