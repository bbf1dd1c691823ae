"""Text: documents, tokenizers, corpora and masking, tables of sentences, questions and their windows."""
